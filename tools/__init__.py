"""Tools of the repository; no part of a distribution."""
