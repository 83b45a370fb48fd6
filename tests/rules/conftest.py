"""Makes the modules beside this file (`removals`, `audit`) importable from the tests below it."""
