"""Commands that measure a machine of the user, and what they need where there is no network."""
