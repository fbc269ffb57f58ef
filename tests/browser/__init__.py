"""A package, so that its browser and its servers end before the tests of the next folder begin."""
