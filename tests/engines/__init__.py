"""Engine directories for the tests."""
