"""One file per source, each a function from a path to a cohort."""
