"""Questions, their choices, and the ballots cast on them.

A ballot is one voter's answer to one question and holds one vote for each choice it selects. The
number of votes is also kept on the choice itself, so that a results page costs one query; the
command `tally --recount` proves that both agree.
"""

from dataclasses import dataclass

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import F, Q
from django.urls import reverse
from django.utils import timezone

from .constraints import check


class QuestionQuerySet(models.QuerySet):
    """Questions by where `now` lies in their voting window."""

    def scheduled(self, now):
        """Not yet open."""
        return self.filter(opens_at__gt=now)

    def open(self, now):
        """Open for votes. A window includes its first instant and excludes its last."""
        return self.filter(Q(closes_at__isnull=True) | Q(closes_at__gt=now), opens_at__lte=now)

    def closed(self, now):
        """No longer open."""
        return self.filter(closes_at__lte=now)

    def public(self, now):
        """Those that visitors may see: opened once, and with something to choose from."""
        return self.filter(
            models.Exists(Choice.objects.filter(question=models.OuterRef("pk"))),
            opens_at__lte=now,
        )


class Question(models.Model):
    """Something to be decided, within a window of time."""

    class State(models.TextChoices):
        """Where a moment lies in the window."""

        SCHEDULED = "scheduled"
        OPEN = "open"
        CLOSED = "closed"

    class Reveal(models.TextChoices):
        """When the results may be seen."""

        ALWAYS = "always", "at any time"
        VOTED = "voted", "after one's own vote, or at the end"
        CLOSED = "closed", "at the end"

    prompt = models.CharField(max_length=200)
    slug = models.SlugField(max_length=80, unique=True)
    details = models.TextField(blank=True)
    opens_at = models.DateTimeField(default=timezone.now, db_index=True)
    closes_at = models.DateTimeField(null=True, blank=True, help_text="Empty: stays open.")
    max_choices = models.PositiveSmallIntegerField(
        default=1, help_text="How many choices one ballot may select."
    )
    reveal = models.CharField(max_length=10, choices=Reveal.choices, default=Reveal.VOTED)

    objects = QuestionQuerySet.as_manager()

    class Meta:
        ordering = ["-opens_at", "-pk"]
        constraints = [
            check("question_closes_after_it_opens", Q(closes_at__gt=F("opens_at"))),
            check("question_takes_a_choice", Q(max_choices__gte=1)),
            check("question_reveal_is_known", Q(reveal__in=["always", "voted", "closed"])),
        ]

    def __str__(self):
        return self.prompt

    def get_absolute_url(self):
        return reverse("polls:detail", args=[self.slug])

    def clean(self):
        """Say beside the field what the constraint would say about the row."""
        if self.closes_at and self.opens_at and self.closes_at <= self.opens_at:
            raise ValidationError({"closes_at": "A question has to close after it opens."})

    def state(self, now):
        """Return where `now` lies in the window."""
        if now < self.opens_at:
            return self.State.SCHEDULED
        if self.closes_at is not None and self.closes_at <= now:
            return self.State.CLOSED
        return self.State.OPEN

    def shows_results(self, now, voted):
        """Tell whether someone who has `voted`, or not, may see the results."""
        state = self.state(now)
        if state == self.State.SCHEDULED:
            return False
        if state == self.State.CLOSED or self.reveal == self.Reveal.ALWAYS:
            return True
        return voted and self.reveal == self.Reveal.VOTED

    def results(self):
        """Return `Result` rows, most votes first, ties in the order of the ballot paper."""
        choices = list(self.choices.all())
        total = sum(choice.votes for choice in choices)
        rows = [Result(choice.text, choice.votes, total) for choice in choices]
        return sorted(rows, key=lambda row: -row.votes)


@dataclass(frozen=True)
class Result:
    """One line of the results: `votes` of the `total` on this question."""

    text: str
    votes: int
    total: int

    @property
    def percent(self):
        """The share of all votes, with one decimal; 0 as long as there are none."""
        return round(100 * self.votes / self.total, 1) if self.total else 0.0


class Choice(models.Model):
    """One possible answer."""

    question = models.ForeignKey(Question, on_delete=models.CASCADE, related_name="choices")
    text = models.CharField(max_length=200)
    position = models.PositiveSmallIntegerField(default=0)
    votes = models.PositiveIntegerField(default=0, editable=False)

    class Meta:
        ordering = ["position", "pk"]
        constraints = [
            models.UniqueConstraint(fields=["question", "text"], name="choice_text_is_unique"),
        ]

    def __str__(self):
        return self.text


class Ballot(models.Model):
    """One voter's answer to one question; final once cast."""

    question = models.ForeignKey(Question, on_delete=models.CASCADE, related_name="ballots")
    # A keyed digest: enough to refuse a second ballot, not enough to tell who voted for what.
    voter = models.CharField(max_length=64)
    cast_at = models.DateTimeField()

    class Meta:
        ordering = ["cast_at", "pk"]
        constraints = [
            models.UniqueConstraint(fields=["question", "voter"], name="one_ballot_per_voter"),
        ]

    def __str__(self):
        return f"ballot {self.pk} on {self.question_id}"


class Vote(models.Model):
    """One selected choice on one ballot."""

    ballot = models.ForeignKey(Ballot, on_delete=models.CASCADE, related_name="votes")
    choice = models.ForeignKey(Choice, on_delete=models.RESTRICT, related_name="+")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["ballot", "choice"], name="one_vote_per_choice"),
        ]

    def __str__(self):
        return f"vote for {self.choice_id}"
