"""Data: from a section of the configuration to batches of tokens.

Start in `datasets`, whose `load_examples` returns the examples of any dataset: procedural questions
(`procedural`), rows of the user's own (`rows`), tables of the hub (`hub_datasets`). `templates`
writes prompts, `tokenization` encodes examples, `collators` orders and batches them. `questions`
are those that answers are generated to. How a loss reads a batch is in `train`, how answers are
scored in `eval`.
"""
