"""The organisers' side."""

from django.contrib.auth.models import Permission, User
from django.test import TestCase
from django.urls import reverse
from django.utils import timezone

from polls import voting
from polls.models import Question

from . import factory

LIST = "/admin/polls/question/"


class AdminTests(factory.Secure, TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.chief = User.objects.create_superuser("chief")

    def setUp(self):
        super().setUp()
        self.client.force_login(self.chief)

    def close(self, *questions):
        data = {"action": "close_now", "_selected_action": [question.pk for question in questions]}
        return self.client.post(LIST, data, follow=True)

    def test_strangers_are_sent_to_the_login(self):
        page = self.visitor().get(LIST)
        self.assertRedirects(page, f"/admin/login/?next={LIST}", fetch_redirect_response=False)

    def test_list_shows_state_and_ballots(self):
        question = factory.question()
        for voter in "abc":
            voting.cast(question, [question.choices.first()], voter)
        page = self.client.get(LIST)
        self.assertContains(page, '<td class="field-state">Open</td>', html=True)
        self.assertContains(page, '<td class="field-ballots">3</td>', html=True)

    def test_add_with_choices(self):
        prefix = "choices-"
        page = self.client.post(
            LIST + "add/",
            {
                "prompt": "Where to?", "slug": "where-to", "details": "", "max_choices": 1,
                "reveal": "voted", "opens_at_0": "2024-01-01", "opens_at_1": "10:00",
                "closes_at_0": "", "closes_at_1": "",
                prefix + "TOTAL_FORMS": 2, prefix + "INITIAL_FORMS": 0,
                prefix + "0-text": "Hills", prefix + "0-position": 0,
                prefix + "1-text": "Sea", prefix + "1-position": 1,
            },
        )  # fmt: skip
        self.assertRedirects(page, LIST, fetch_redirect_response=False)
        choices = Question.objects.get(slug="where-to").choices
        self.assertEqual(list(choices.values_list("text", flat=True)), ["Hills", "Sea"])

    def test_close_now(self):
        question = factory.question()
        page = self.close(question)
        self.assertContains(page, "1 closed.")
        question.refresh_from_db()
        self.assertEqual(question.state(timezone.now()), "closed")

    def test_close_now_leaves_what_is_not_open(self):
        later, past = factory.scheduled(), factory.closed()
        page = self.close(later, past)
        self.assertContains(page, "0 closed.")
        self.assertContains(page, "2 not open, left as they are.")
        self.assertEqual(Question.objects.get(pk=past.pk).closes_at, past.closes_at)

    def test_close_now_needs_the_right_to_change(self):
        question = factory.question()
        reader = User.objects.create_user("reader", is_staff=True)
        reader.user_permissions.add(Permission.objects.get(codename="view_question"))
        self.client.force_login(reader)
        self.close(question)
        question.refresh_from_db()
        self.assertEqual(question.state(timezone.now()), "open")

    def test_choices_are_fixed_once_somebody_has_voted(self):
        question = factory.question()
        url = reverse("admin:polls_question_change", args=[question.pk])
        self.assertContains(self.client.get(url), 'name="choices-0-text"')
        voting.cast(question, [question.choices.first()], "a")
        self.assertNotContains(self.client.get(url), 'name="choices-0-text"')
