"""Makes the modules beside this file importable from the tests beside it."""
