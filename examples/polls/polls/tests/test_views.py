"""Pages as a visitor's browser sees them."""

from django.contrib.auth.models import User
from django.test import Client, TestCase, override_settings
from django.urls import reverse
from django.utils import timezone

from polls.models import Choice

from . import factory


def results(question):
    return reverse("polls:results", args=[question.slug])


class ListTests(factory.Secure, TestCase):
    url = "/"

    def test_nothing_to_vote_on(self):
        self.assertContains(self.client.get(self.url), "Nothing to vote on.")

    def test_shows_the_public_ones_only(self):
        factory.question("lunch")
        factory.closed("past")
        factory.scheduled("later")
        factory.question("empty", texts=())
        page = self.client.get(self.url)
        self.assertContains(page, "What about lunch?")
        self.assertContains(page, "What about past?")
        self.assertNotContains(page, "What about later?")
        self.assertNotContains(page, "What about empty?")

    def test_state_filter(self):
        factory.question("lunch")
        factory.closed("past")
        for state, there, absent in (("open", "lunch", "past"), ("closed", "past", "lunch")):
            with self.subTest(state=state):
                page = self.client.get(self.url, {"state": state})
                self.assertContains(page, f"What about {there}?")
                self.assertNotContains(page, f"What about {absent}?")

    @override_settings(POLLS_PAGE_SIZE=2)
    def test_pages(self):
        for number in range(5):
            factory.question(f"q{number}", opens_at=timezone.now() - number * factory.HOUR)
        page = self.client.get(self.url, {"page": 2, "state": "open"})
        self.assertEqual([question.slug for question in page.context["questions"]], ["q2", "q3"])
        self.assertContains(page, '<a rel="next" href="?page=3&amp;state=open">')
        self.assertContains(page, '<a rel="prev" href="?page=1&amp;state=open">')
        self.assertEqual(self.client.get(self.url, {"page": 9}).status_code, 404)

    def test_number_of_queries_does_not_grow(self):
        for number in range(10):
            factory.question(f"q{number}")
        with self.assertNumQueries(2):
            self.client.get(self.url)

    def test_prompts_are_escaped(self):
        factory.question(prompt="<b>Lunch</b>")
        self.assertContains(self.client.get(self.url), "&lt;b&gt;Lunch&lt;/b&gt;")


class DetailTests(factory.Secure, TestCase):
    def setUp(self):
        super().setUp()
        self.question = factory.question()
        self.soup = self.question.choices.get(text="Soup")
        self.url = self.question.get_absolute_url()

    def votes(self):
        return Choice.objects.get(pk=self.soup.pk).votes

    def test_shows_the_paper(self):
        page = self.client.get(self.url)
        self.assertContains(page, 'type="radio"', count=3)
        self.assertIn("no-store", page["Cache-Control"])

    def test_looking_makes_no_session(self):
        self.client.get(self.url)
        self.assertNotIn("sessionid", self.client.cookies)

    def test_not_public_is_not_found(self):
        for hidden in (factory.scheduled(), factory.question("empty", texts=())):
            for url in (hidden.get_absolute_url(), results(hidden)):
                with self.subTest(url=url):
                    self.assertEqual(self.client.get(url).status_code, 404)
        self.assertEqual(self.client.get("/questions/unknown/").status_code, 404)

    def test_vote_leads_to_results(self):
        page = self.client.post(self.url, {"choices": self.soup.pk}, follow=True)
        self.assertEqual(page.redirect_chain, [(results(self.question), 302)])
        self.assertContains(page, "Your vote has been counted.")
        self.assertContains(page, "1 ballot")
        self.assertEqual(self.votes(), 1)

    def test_second_vote_is_a_conflict(self):
        self.client.post(self.url, {"choices": self.soup.pk})
        page = self.client.post(self.url, {"choices": self.soup.pk})
        self.assertContains(page, "You have voted on this question before.", status_code=409)
        self.assertEqual(self.votes(), 1)
        self.assertNotContains(self.client.get(self.url), 'type="radio"')

    def test_another_visitor_may_vote_too(self):
        for _ in range(3):
            self.visitor().post(self.url, {"choices": self.soup.pk})
        self.assertEqual(self.votes(), 3)

    def test_a_user_votes_once_from_two_browsers(self):
        user = User.objects.create_user("ada")
        codes = []
        for _ in range(2):
            browser = self.visitor()
            browser.force_login(user)
            codes.append(browser.post(self.url, {"choices": self.soup.pk}).status_code)
        self.assertEqual(codes, [302, 409])

    def test_a_bad_form_is_shown_again(self):
        for data in ({}, {"choices": "0"}, {"choices": "soup"}):
            with self.subTest(data=data):
                page = self.client.post(self.url, data)
                self.assertContains(page, 'role="alert"', status_code=422)
        self.assertEqual(self.votes(), 0)

    def test_a_closed_question_takes_no_vote(self):
        past = factory.closed()
        choice = past.choices.first()
        page = self.client.post(past.get_absolute_url(), {"choices": choice.pk})
        self.assertContains(page, "not open for votes", status_code=409)
        self.assertContains(self.client.get(past.get_absolute_url()), "This question is closed.")

    def test_forged_request(self):
        strict = self.visitor(enforce_csrf_checks=True)
        self.assertEqual(strict.post(self.url, {"choices": self.soup.pk}).status_code, 403)
        self.assertEqual(self.votes(), 0)

    def test_other_methods(self):
        for method in ("put", "patch", "delete"):
            with self.subTest(method=method):
                self.assertEqual(getattr(self.client, method)(self.url).status_code, 405)


class ResultsTests(factory.Secure, TestCase):
    def test_hidden_until_voted(self):
        question = factory.question()
        self.assertContains(
            self.client.get(results(question)), "to those who have voted", status_code=403
        )
        self.client.post(question.get_absolute_url(), {"choices": question.choices.first().pk})
        self.assertContains(self.client.get(results(question)), "100.0 %")

    def test_hidden_until_closed(self):
        question = factory.question(reveal="closed")
        self.client.post(question.get_absolute_url(), {"choices": question.choices.first().pk})
        page = self.client.get(results(question))
        self.assertContains(page, "when the question has closed", status_code=403)
        self.assertNotContains(page, "Soup", status_code=403)

    def test_shown_to_everybody_at_the_end(self):
        self.assertContains(self.client.get(results(factory.closed(reveal="closed"))), "Soup")

    def test_a_vote_cannot_be_sent_here(self):
        question = factory.question(reveal="always")
        self.assertEqual(self.client.post(results(question)).status_code, 405)


class HeaderTests(factory.Secure, TestCase):
    def test_no_framing_and_no_sniffing(self):
        page = self.client.get("/")
        self.assertEqual(page["X-Frame-Options"], "DENY")
        self.assertEqual(page["X-Content-Type-Options"], "nosniff")
        self.assertEqual(page["Referrer-Policy"], "same-origin")

    @override_settings(SECURE_SSL_REDIRECT=True)
    def test_http_is_redirected_to_https(self):
        page = Client().get("/")
        self.assertRedirects(page, "https://testserver/", 301, fetch_redirect_response=False)
