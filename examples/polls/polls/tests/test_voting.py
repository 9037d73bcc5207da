"""One voter after the other."""

from unittest import mock

from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.backends.db import SessionStore
from django.db import IntegrityError
from django.test import RequestFactory, TestCase
from django.utils import timezone

from polls import voting
from polls.models import Ballot, Choice, Vote

from . import factory


class CastTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.question = factory.question(max_choices=2)
        cls.soup, cls.salad, cls.bread = cls.question.choices.all()

    def votes(self):
        return list(Choice.objects.filter(question=self.question).values_list("votes", flat=True))

    def unchanged_by(self, error, *args, **kwargs):
        with self.assertRaises(error), self.assertLogs("polls") as logs:
            voting.logger.info("before")
            voting.cast(*args, **kwargs)
        self.assertEqual(len(logs.records), 1)
        self.assertEqual(self.votes(), [0, 0, 0])
        self.assertFalse(Ballot.objects.exists())
        self.assertFalse(Vote.objects.exists())

    def test_counts(self):
        ballot = voting.cast(self.question, [self.soup, self.bread], "a")
        self.assertEqual(self.votes(), [1, 0, 1])
        self.assertEqual(
            set(ballot.votes.values_list("choice_id", flat=True)), {self.soup.pk, self.bread.pk}
        )

    def test_same_choice_named_twice_counts_once(self):
        voting.cast(self.question, [self.soup, self.soup, self.soup], "a")
        self.assertEqual(self.votes(), [1, 0, 0])

    def test_voters_add_up(self):
        for voter in "abcd":
            voting.cast(self.question, [self.salad], voter)
        self.assertEqual(self.votes(), [0, 4, 0])

    def test_nothing_selected(self):
        self.unchanged_by(voting.InvalidSelection, self.question, [], "a")

    def test_too_many_selected(self):
        self.unchanged_by(
            voting.InvalidSelection, self.question, [self.soup, self.salad, self.bread], "a"
        )

    def test_choice_of_another_question(self):
        other = factory.question("dinner").choices.first()
        self.unchanged_by(voting.InvalidSelection, self.question, [self.soup, other], "a")

    def test_outside_the_window(self):
        for now in (self.question.opens_at - factory.HOUR, self.question.closes_at):
            with self.subTest(now=now):
                self.unchanged_by(voting.NotOpen, self.question, [self.soup], "a", now=now)

    def test_the_database_and_not_the_stale_object_says_whether_it_is_open(self):
        type(self.question).objects.filter(pk=self.question.pk).update(closes_at=timezone.now())
        self.unchanged_by(voting.NotOpen, self.question, [self.soup], "a")

    def test_second_ballot(self):
        voting.cast(self.question, [self.soup], "a")
        with self.assertRaises(voting.AlreadyCast):
            voting.cast(self.question, [self.salad], "a")
        self.assertEqual(self.votes(), [1, 0, 0])

    def test_another_broken_constraint_is_not_taken_for_a_second_ballot(self):
        broken = mock.patch.object(Ballot.objects, "create", side_effect=IntegrityError("other"))
        with broken, self.assertRaisesMessage(IntegrityError, "other"):
            voting.cast(self.question, [self.soup], "a")

    def test_log_does_not_name_the_voter(self):
        with self.assertLogs("polls") as logs:
            voting.cast(self.question, [self.soup], "secret-voter")
        self.assertNotIn("secret-voter", "".join(logs.output))


class VoterTests(TestCase):
    def request(self, user=None, session=None):
        request = RequestFactory().get("/")
        request.user = user or AnonymousUser()
        request.session = session or SessionStore()
        return request

    def test_a_visitor_without_session_has_not_voted_and_gets_none(self):
        request = self.request()
        self.assertIsNone(voting.known_voter_of(request))
        self.assertIsNone(request.session.session_key)
        self.assertFalse(voting.has_voted(factory.question(), None))

    def test_a_vote_makes_a_session_that_stays_the_same_voter(self):
        request = self.request()
        voter = voting.voter_of(request)
        self.assertIsNotNone(request.session.session_key)
        self.assertEqual(voting.known_voter_of(request), voter)

    def test_a_user_is_the_same_voter_in_every_session(self):
        user = User.objects.create_user("ada")
        self.assertEqual(voting.voter_of(self.request(user)), voting.voter_of(self.request(user)))

    def test_users_and_sessions_are_apart_and_unreadable(self):
        ada, ben = User.objects.create_user("ada"), User.objects.create_user("ben")
        voters = {voting.voter_of(self.request(user)) for user in (ada, ben, None, None)}
        self.assertEqual(len(voters), 4)
        for voter in voters:
            self.assertRegex(voter, "^[0-9a-f]{64}$")

    def test_the_key_is_part_of_the_digest(self):
        user = User.objects.create_user("ada")
        voter = voting.voter_of(self.request(user))
        with self.settings(SECRET_KEY="another"):
            self.assertNotEqual(voting.voter_of(self.request(user)), voter)
