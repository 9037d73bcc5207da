"""Casting a ballot: the only place that writes ballots, votes and counters."""

import logging

from django.db import IntegrityError, transaction
from django.db.models import F
from django.utils import timezone
from django.utils.crypto import salted_hmac

from .models import Ballot, Choice, Question, Vote

logger = logging.getLogger(__name__)


class VotingError(Exception):
    """A ballot that was not accepted. `code` is for programs, the text for people."""

    code = "refused"


class NotOpen(VotingError):
    """The question's window does not include now."""

    code = "not_open"


class AlreadyCast(VotingError):
    """The voter has answered this question before."""

    code = "already_cast"


class InvalidSelection(VotingError):
    """Nothing, too much, or something of another question was selected."""

    code = "invalid_selection"


def voter_of(request):
    """Return the digest by which ballots know whoever makes this request."""
    if request.user.is_authenticated:
        identity = f"user:{request.user.pk}"
    else:
        if request.session.session_key is None:
            request.session.create()
        identity = f"session:{request.session.session_key}"
    return salted_hmac("polls.voter", identity, algorithm="sha256").hexdigest()


def known_voter_of(request):
    """Like `voter_of`, but None for someone who has no session, and cannot have voted."""
    if not request.user.is_authenticated and request.session.session_key is None:
        return None
    return voter_of(request)


def has_voted(question, voter):
    """Tell whether `voter` has cast a ballot on the question."""
    return voter is not None and question.ballots.filter(voter=voter).exists()


def cast(question, choices, voter, now=None):
    """Cast and return a ballot, or raise a `VotingError` and change nothing.

    Safe against any number of simultaneous callers. The unique constraint decides who was first,
    not a look-up before; counters are added up by the database; and the window is read again
    under the lock that the insert has taken. The insert comes first because a SQLite transaction
    that begins by reading cannot wait for its turn to write: it would fail as soon as another
    one has written in between.
    """
    now = now or timezone.now()
    selected = {choice.pk for choice in choices}
    if not selected:
        raise InvalidSelection("Select at least one choice.")
    if len(selected) > question.max_choices:
        raise InvalidSelection(f"Select at most {question.max_choices} of the choices.")
    try:
        with transaction.atomic():
            ballot = Ballot.objects.create(question=question, voter=voter, cast_at=now)
            current = Question.objects.select_for_update().get(pk=question.pk)
            if current.state(now) != Question.State.OPEN:
                raise NotOpen("This question is not open for votes.")
            counted = Choice.objects.filter(question=question, pk__in=selected).update(
                votes=F("votes") + 1
            )
            if counted != len(selected):
                raise InvalidSelection("Select choices of this question only.")
            Vote.objects.bulk_create(Vote(ballot=ballot, choice_id=pk) for pk in sorted(selected))
    except IntegrityError as error:
        if has_voted(question, voter):
            raise AlreadyCast("You have voted on this question before.") from error
        raise
    logger.info("ballot cast on %s", question.slug)
    return ballot
