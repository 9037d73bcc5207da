"""Short ways to make what the tests are about."""

from datetime import timedelta

from django.test import Client
from django.utils import timezone

from polls.models import Question

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


def question(slug="lunch", texts=("Soup", "Salad", "Bread"), **fields):
    """Make a question with choices; it is open unless `fields` say otherwise."""
    now = timezone.now()
    values = {"prompt": f"What about {slug}?", "opens_at": now - DAY, "closes_at": now + DAY}
    values.update(fields)
    made = Question.objects.create(slug=slug, **values)
    for position, text in enumerate(texts):
        made.choices.create(text=text, position=position)
    return made


def scheduled(slug="later", **fields):
    """Make a question that opens tomorrow."""
    now = timezone.now()
    return question(slug, opens_at=now + DAY, closes_at=now + 2 * DAY, **fields)


def closed(slug="past", **fields):
    """Make a question that closed an hour ago."""
    now = timezone.now()
    return question(slug, opens_at=now - DAY, closes_at=now - HOUR, **fields)


class SecureClient(Client):
    """A browser that speaks HTTPS, as production demands."""

    def request(self, **request):
        return super().request(**{**request, "wsgi.url_scheme": "https", "SERVER_PORT": "443"})


class Secure:
    """Mixed into test cases whose client is such a browser."""

    client_class = SecureClient

    def visitor(self, **options):
        """Return a browser of its own: other cookies, other session, other voter."""
        return self.client_class(**options)
