"""The API as a program sees it."""

import json

from django.test import TestCase, override_settings
from django.urls import reverse

from polls.models import Ballot, Question

from . import factory


class ListTests(factory.Secure, TestCase):
    url = "/api/questions/"

    def test_lists_public_questions(self):
        factory.question("lunch", closes_at=None)
        factory.scheduled("later")
        answer = self.client.get(self.url).json()
        self.assertEqual(answer["count"], 1)
        (question,) = answer["questions"]
        self.assertEqual(question["slug"], "lunch")
        self.assertEqual(question["state"], "open")
        self.assertIsNone(question["closes_at"])
        self.assertEqual(question["url"], "/api/questions/lunch/")

    def test_state(self):
        factory.question("lunch")
        factory.closed("past")
        for state, slug in (("open", "lunch"), ("closed", "past")):
            with self.subTest(state=state):
                found = self.client.get(self.url, {"state": state}).json()["questions"]
                self.assertEqual([question["slug"] for question in found], [slug])

    def test_unknown_state(self):
        answer = self.client.get(self.url, {"state": "scheduled"})
        self.assertEqual(answer.status_code, 400)
        self.assertEqual(answer.json()["error"]["code"], "invalid_state")

    @override_settings(POLLS_PAGE_SIZE=2)
    def test_pages(self):
        for number in range(5):
            factory.question(f"q{number}")
        sizes = [len(self.client.get(self.url, {"page": n}).json()["questions"]) for n in (1, 2, 3)]
        self.assertEqual(sizes, [2, 2, 1])
        self.assertEqual(self.client.get(self.url).json()["pages"], 3)


class QuestionTests(factory.Secure, TestCase):
    def test_results_only_for_whoever_may_see_them(self):
        question = factory.question()
        url = reverse("api:question", args=[question.slug])
        before = self.client.get(url).json()
        self.assertIs(before["voted"], False)
        self.assertIsNone(before["results"])
        self.assertEqual(
            [choice["text"] for choice in before["choices"]], ["Soup", "Salad", "Bread"]
        )
        self.assertNotIn("votes", before["choices"][0])
        self.client.post(
            reverse("api:ballots", args=[question.slug]),
            {"choices": [before["choices"][1]["id"]]},
            content_type="application/json",
        )
        after = self.client.get(url).json()
        self.assertIs(after["voted"], True)
        self.assertEqual(after["results"][0], {"text": "Salad", "votes": 1, "percent": 100.0})

    def test_not_found_is_json(self):
        factory.scheduled("later")
        for slug in ("unknown", "later"):
            with self.subTest(slug=slug):
                answer = self.client.get(f"/api/questions/{slug}/")
                self.assertEqual(answer.status_code, 404)
                self.assertEqual(answer.json()["error"]["code"], "not_found")


class BallotTests(factory.Secure, TestCase):
    def setUp(self):
        super().setUp()
        self.question = factory.question(max_choices=2)
        self.ids = list(self.question.choices.values_list("pk", flat=True))
        self.url = reverse("api:ballots", args=[self.question.slug])

    def post(self, body, client=None, content_type="application/json", **headers):
        text = body if isinstance(body, (str, bytes)) else json.dumps(body)
        return (client or self.client).post(self.url, text, content_type=content_type, **headers)

    def refused(self, answer, status, code):
        self.assertEqual((answer.status_code, answer.json()["error"]["code"]), (status, code))
        self.assertFalse(Ballot.objects.exists())

    def test_cast(self):
        answer = self.post({"choices": self.ids[:2]})
        self.assertEqual(answer.status_code, 201)
        ballot = Ballot.objects.get(pk=answer.json()["ballot"])
        self.assertEqual(sorted(ballot.votes.values_list("choice_id", flat=True)), self.ids[:2])

    def test_twice(self):
        self.post({"choices": self.ids[:1]})
        answer = self.post({"choices": self.ids[:1]})
        self.assertEqual(
            (answer.status_code, answer.json()["error"]["code"]), (409, "already_cast")
        )

    def test_bodies_that_are_no_ballot(self):
        deep = "[" * 8000
        for body in (
            b"\xff",
            "nonsense",
            "[]",
            "3",
            "{}",
            deep,
            {"choices": 1},
            {"choices": None},
        ):
            with self.subTest(body=body):
                self.refused(self.post(body), 400, "invalid_body")

    def test_ids_that_are_no_numbers(self):
        for value in ("1", True, 1.0, None, [1], {"id": 1}):
            with self.subTest(value=value):
                self.refused(self.post({"choices": [value]}), 400, "invalid_body")

    def test_selections_that_do_not_fit(self):
        other = factory.question("dinner").choices.first().pk
        first = self.ids[0]
        for ids in ([], self.ids, [other], [first, other], [first, first], [0], [-1], [10**30]):
            with self.subTest(ids=ids):
                self.refused(self.post({"choices": ids}), 422, "invalid_selection")

    def test_closed(self):
        self.url = reverse("api:ballots", args=[factory.closed().slug])
        answer = self.post({"choices": [Question.objects.get(slug="past").choices.first().pk]})
        self.refused(answer, 409, "not_open")

    def test_media_type(self):
        answer = self.post("choices=1", content_type="application/x-www-form-urlencoded")
        self.refused(answer, 415, "unsupported_media_type")
        # A test client leaves the type out where there is no body.
        self.refused(self.post(""), 415, "unsupported_media_type")

    def test_too_large(self):
        self.refused(self.post(" " * 20000), 413, "too_large")

    def test_unknown_question(self):
        self.url = "/api/questions/unknown/ballots/"
        self.refused(self.post({"choices": [1]}), 404, "not_found")

    def test_get_is_not_allowed(self):
        self.assertEqual(self.client.get(self.url).status_code, 405)

    def test_forged_request_and_the_token_that_makes_it_good(self):
        browser = self.visitor(enforce_csrf_checks=True)
        self.assertEqual(self.post({"choices": self.ids[:1]}, browser).status_code, 403)
        browser.get(reverse("api:question", args=[self.question.slug]))
        token = browser.cookies["csrftoken"].value
        answer = self.post(
            {"choices": self.ids[:1]},
            browser,
            HTTP_X_CSRFTOKEN=token,
            HTTP_REFERER="https://testserver/",
        )
        self.assertEqual(answer.status_code, 201)
