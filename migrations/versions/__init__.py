"""One file a change of the schema. A migration works with the code before and after it."""
