"""Words to arrays: whatever holds text becomes batches of fixed shapes, checked once at the door.

    source -> Table -> Examples -> Encoded -> batches
              columns   typed,      tokens,    static shapes,
                        checked     ragged     resumable order

    tasks        what a data set asks for: columns, kind, label names, metric; a model's own label order
    sources      `load_examples`: files, TFDS, lists, the demo; each reader returns a `Table`
    examples     a table's cells as texts and answers, or one error naming source, line and column
    facts        what was read: classes, texts that were cut, that are in two files, words that are not known
    tokenizer    text to ids, exactly those of `transformers`
    encode       examples to tokens, once, before training
    batches      buckets or packing, in an order that any number of processes share and that can be resumed anywhere
    augment      copies of a text with other words in it, for a student to learn from
    documents    raw text for pre-training: documents of sentences
    wordpiece    a vocabulary learnt from them
    corpus       their tokens in array_record files, in chunks that fit a row
    pairs        what is asked of two segments: next, order
    masking      what is hidden: tokens, words, runs of words
    pretraining  batches of all that, drawn anew in every epoch
    demo         a real pretrained model and real labelled text through pip alone

The trade-off: everything is read, checked and tokenised before the first step, so a bad row is found in a second and
not after an hour, and the position in the data is a single number. The price is memory (the texts, and 8 bytes a token)
and a start that grows with the data; text that does not fit into memory has to be cut into files first. Text for
pre-training is larger: it is read file by file, tokenised once onto the disk, and only its index stays in memory.
"""
