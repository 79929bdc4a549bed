"""Of cohorts that a reader gives, what tests of readers compare."""


def column(cohort, name):
    return cohort.subjects[name].tolist()


def reasons(cohort):
    """Of each recording that is left out."""
    return dict(zip(cohort.excluded["subject_id"], cohort.excluded["reason"], strict=True))
