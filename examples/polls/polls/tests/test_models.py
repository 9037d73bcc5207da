"""Windows of time, what the database refuses, and results."""

from datetime import datetime, timedelta, timezone

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.test import SimpleTestCase, TestCase

from polls import voting
from polls.models import Ballot, Choice, Question, Result, Vote

from . import factory

NOON = datetime(2024, 2, 29, 12, tzinfo=timezone.utc)
TICK = timedelta(microseconds=1)


class StateTests(SimpleTestCase):
    window = Question(opens_at=NOON, closes_at=NOON + factory.HOUR)
    endless = Question(opens_at=NOON, closes_at=None)

    def test_state_over_time(self):
        table = [
            (NOON - TICK, "scheduled"),
            (NOON, "open"),
            (NOON + factory.HOUR - TICK, "open"),
            (NOON + factory.HOUR, "closed"),
            (NOON + factory.DAY, "closed"),
        ]
        for now, expected in table:
            with self.subTest(now=now):
                self.assertEqual(self.window.state(now), expected)

    def test_without_an_end_a_question_stays_open(self):
        self.assertEqual(self.endless.state(NOON + 10000 * factory.DAY), "open")

    def test_who_sees_results(self):
        before, during, after = NOON - TICK, NOON, NOON + factory.HOUR
        table = [
            ("always", before, True, False),
            ("always", during, False, True),
            ("voted", during, False, False),
            ("voted", during, True, True),
            ("voted", after, False, True),
            ("closed", during, True, False),
            ("closed", after, False, True),
        ]
        for reveal, now, voted, expected in table:
            with self.subTest(reveal=reveal, now=now, voted=voted):
                self.window.reveal = reveal
                self.assertIs(self.window.shows_results(now, voted), expected)


class QuerySetTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.window = factory.question("window", opens_at=NOON, closes_at=NOON + factory.HOUR)
        cls.endless = factory.question("endless", opens_at=NOON, closes_at=None)

    def test_database_agrees_with_state(self):
        moments = [NOON - TICK, NOON, NOON + TICK, NOON + factory.HOUR, NOON + factory.DAY]
        for now in moments:
            for question in (self.window, self.endless):
                with self.subTest(now=now, question=question.slug):
                    found = [
                        name
                        for name in ("scheduled", "open", "closed")
                        if getattr(Question.objects, name)(now).filter(pk=question.pk).exists()
                    ]
                    self.assertEqual(found, [question.state(now)])

    def test_public_leaves_out_the_scheduled_and_the_empty(self):
        factory.question("empty", texts=(), opens_at=NOON)
        self.assertEqual(Question.objects.public(NOON - TICK).count(), 0)
        self.assertEqual(
            set(Question.objects.public(NOON).values_list("slug", flat=True)),
            {"window", "endless"},
        )

    def test_newest_first(self):
        factory.question("newer", opens_at=NOON + factory.HOUR, closes_at=None)
        self.assertEqual(Question.objects.first().slug, "newer")


class ConstraintTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.question = factory.question()

    def refuses(self, name, act):
        with self.assertRaises(IntegrityError) as caught, transaction.atomic():
            act()
        return self.assertIn(name, str(caught.exception))

    def test_closing_before_opening(self):
        self.refuses(
            "question_closes_after_it_opens",
            lambda: factory.question("odd", opens_at=NOON, closes_at=NOON),
        )

    def test_no_choice_at_all(self):
        self.refuses("question_takes_a_choice", lambda: factory.question("odd", max_choices=0))

    def test_unknown_reveal(self):
        self.refuses("question_reveal_is_known", lambda: factory.question("odd", reveal="never"))

    def test_same_slug_twice(self):
        self.refuses("polls_question.slug", lambda: factory.question("lunch"))

    def test_same_text_twice(self):
        self.refuses("polls_choice.text", lambda: self.question.choices.create(text="Soup"))

    def test_same_text_on_another_question(self):
        other = factory.question("dinner", texts=())
        self.assertEqual(other.choices.create(text="Soup").text, "Soup")

    def test_second_ballot_of_a_voter(self):
        Ballot.objects.create(question=self.question, voter="a", cast_at=NOON)
        self.refuses(
            "polls_ballot.voter",
            lambda: Ballot.objects.create(question=self.question, voter="a", cast_at=NOON),
        )

    def test_same_choice_twice_on_a_ballot(self):
        ballot = Ballot.objects.create(question=self.question, voter="a", cast_at=NOON)
        soup = self.question.choices.get(text="Soup")
        Vote.objects.create(ballot=ballot, choice=soup)
        self.refuses("polls_vote.choice", lambda: Vote.objects.create(ballot=ballot, choice=soup))

    def test_a_choice_with_votes_stays(self):
        soup = self.question.choices.get(text="Soup")
        voting.cast(self.question, [soup], "a")
        with self.assertRaises(IntegrityError), transaction.atomic():
            soup.delete()

    def test_a_question_goes_with_all_that_belongs_to_it(self):
        voting.cast(self.question, list(self.question.choices.all()[:1]), "a")
        self.question.delete()
        self.assertEqual(
            (Choice.objects.count(), Ballot.objects.count(), Vote.objects.count()), (0, 0, 0)
        )

    def test_clean_names_the_field(self):
        self.question.closes_at = self.question.opens_at
        with self.assertRaises(ValidationError) as caught:
            self.question.full_clean()
        self.assertIn("closes_at", caught.exception.message_dict)


class ResultTests(TestCase):
    def test_most_votes_first_and_ties_in_the_order_of_the_paper(self):
        question = factory.question(texts=("A", "B", "C", "D"))
        for text, votes in (("A", 1), ("B", 4), ("C", 1), ("D", 0)):
            question.choices.filter(text=text).update(votes=votes)
        self.assertEqual(
            question.results(),
            [Result("B", 4, 6), Result("A", 1, 6), Result("C", 1, 6), Result("D", 0, 6)],
        )

    def test_shares(self):
        self.assertEqual(Result("A", 1, 3).percent, 33.3)
        self.assertEqual(Result("A", 0, 0).percent, 0.0)

    def test_results_cost_one_query(self):
        question = factory.question()
        with self.assertNumQueries(1):
            question.results()
