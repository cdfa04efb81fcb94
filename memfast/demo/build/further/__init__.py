"""Further small models that memorize, to choose and test on: none is shipped."""
