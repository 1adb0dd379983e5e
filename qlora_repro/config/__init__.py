"""The configuration: its fields, its rules, and what the names in it stand for.

Values are in conf/, and nowhere else. Start in `schema`, which has the sections; `validate` turns
what Hydra composed into a checked `RunConfig` and has every rule; `registry` says what a data type,
a dataset and a judge need, and how a user's own functions are found. `resolvers` has what `${...}`
in conf/ calls, `messages` the sentences of errors, `paths` where files are. Nothing here imports
torch.
"""
