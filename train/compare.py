"""Hold methods against each other: one teacher, one student shape, one budget, several seeds, one table.

    bertjax compare --config=compare --out=runs/compare
    bertjax compare --config=compare --row=minilm_v2/seed1 --out=runs/again

A row is a name and stages, as `compress` runs them; the first begins with the teacher. Every row sees as many examples,
in the same order for one seed: --epochs (or --steps) is the budget of a row, and where it has several stages, what each
says of its own epochs is its share. A stage that prunes takes parts out of the model instead of giving it the student's
shape, and one that rounds may follow; one that augments the text does not add to the budget. Three rows are always
there: no_teacher (the labels alone), more_epochs (the same, and on top as many passes as training the teacher and
asking it once cost) and bag_of_words.

Each row and seed has its folder, OUT/rows/ROW/seedN, and a finished one is not run again; a row that fails is reported
with its reason, the others go on, and the exit code is 4. Rows and seeds may be added to a finished comparison. The
report is OUT/report.md.
"""

from bertjax.engine.command_line import run
from bertjax.jobs.compare import main

if __name__ == "__main__":
    run(main, __doc__)
