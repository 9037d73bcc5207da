"""Check constraints in the words of every Django release that this project supports.

Django 5.1 renamed the argument `check` to `condition`; Python 3.9 has only Django 4.2.
"""

import django
from django.db import models

ARGUMENT = "condition" if django.VERSION >= (5, 1) else "check"


def check(name, condition):
    """Return the constraint `name`, which every row's `condition` must meet."""
    return models.CheckConstraint(name=name, **{ARGUMENT: condition})
