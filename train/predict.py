"""Label text with a model: one text a line in, one line of JSON out.

    echo "a quiet masterpiece" | bertjax predict --model=runs/quickstart/bundle
    bertjax predict --model=runs/quickstart/bundle --input=reviews.txt --out=labels.jsonl

For pairs of texts, a tab stands between the two. Each line of the answer holds `text`, `label` and `probabilities`,
and the `depth` at which the text left, where the model lets texts leave early. There is an answer for every line: of a
blank one the label is null.
"""

from bertjax.engine.command_line import run
from bertjax.jobs.predict import main

if __name__ == "__main__":
    run(main, __doc__, trains=False)
