"""One file for each change of the schema. A migration works with the code of the release before and after it."""
