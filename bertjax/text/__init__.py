"""From text to arrays: any source of examples or raw text becomes batches of fixed shapes, checked once on the way in.

    source -> Table -> Examples -> Encoded -> batches
              columns   typed,      tokens,    static shapes,
                        checked     ragged     resumable order

    tasks        the description of a task: columns, kind, label names, metric; alignment with a model's label order
    sources      `load_examples`: files, TFDS, lists, the demo; each reader returns a `Table`
    table        the columns that every reader returns; labels reads a label column
    examples     the cells of a table as texts and labels, or one error that names source, line and column
    facts        a summary of the data: classes, truncated texts, train/eval overlap, share of [UNK]
    tokenizer    text to ids, the same ids as `transformers`
    encode       examples to tokens, once, before training
    batches      buckets or packing, in an order that is the same for any number of processes and can be resumed
    augment      data augmentation by word substitution
    answers      from the logits of tokens back to word tags and answer spans
    reader       a cache, so that each source is read and encoded once per run
    documents    raw text for pre-training: documents of sentences
    wordpiece    a WordPiece vocabulary trained on them
    corpus       their tokens in array_record files, in chunks that fit a row
    pairs        segment pairs and labels of next-sentence and sentence-order prediction
    masking      masked language modelling: single tokens, whole words, n-grams
    pretraining  batches of all that, drawn anew in every epoch
    demo         a real pretrained model and real labelled text through pip alone

The trade-off: everything is read, checked and tokenised before the first step. So a bad row is reported in a second and
not after an hour, and the position in the data is a single number. The price is memory (the texts, and 8 bytes per
token) and a start-up time that grows with the data; larger text has to be split into files first. Text for pre-training
is read file by file, tokenised once onto the disk, and only its index stays in memory.
"""
