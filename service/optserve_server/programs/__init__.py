"""Programs around an optimizer's rule, and the scalars that they take."""
