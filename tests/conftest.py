"""Makes the modules beside this file (`architectures`, `workbench`) importable from every test."""
