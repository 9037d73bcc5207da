"""The application's registration."""

from django.apps import AppConfig


class PollsConfig(AppConfig):
    """Questions, ballots and their counting."""

    name = "polls"
    verbose_name = "Polls"
    default_auto_field = "django.db.models.BigAutoField"
