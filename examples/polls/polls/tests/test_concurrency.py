"""Many voters in the same moment, on a database file with its real locks."""

import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.cookiejar import CookieJar

from django.db import connection
from django.test import LiveServerTestCase, TransactionTestCase, override_settings

from polls import voting
from polls.models import Ballot, Choice

from . import factory

VOTERS = 12


def together(act, arguments):
    """Call `act` with each argument, all in the same moment; return what each call gave."""
    barrier = threading.Barrier(len(arguments), timeout=60)

    def one(argument):
        try:
            barrier.wait()
            return act(argument)
        except voting.VotingError as error:
            return error.code
        finally:
            connection.close()

    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(one, arguments))


class ConcurrentCastTests(TransactionTestCase):
    def setUp(self):
        self.question = factory.question()
        self.soup = self.question.choices.get(text="Soup")

    def votes(self):
        return Choice.objects.get(pk=self.soup.pk).votes

    def test_no_vote_is_lost(self):
        together(
            lambda voter: voting.cast(self.question, [self.soup], voter),
            [f"voter {number}" for number in range(VOTERS)],
        )
        self.assertEqual(self.votes(), VOTERS)
        self.assertEqual(Ballot.objects.count(), VOTERS)

    def test_the_control_loses_votes(self):
        """Counting in Python loses votes in the same harness, so the test above can fail."""
        barrier = threading.Barrier(VOTERS, timeout=60)

        def naive(_):
            choice = Choice.objects.get(pk=self.soup.pk)
            barrier.wait()
            choice.votes += 1
            choice.save()

        together(naive, range(VOTERS))
        self.assertEqual(self.votes(), 1)

    def test_one_voter_many_times_counts_once(self):
        answers = together(
            lambda voter: voting.cast(self.question, [self.soup], voter).voter,
            ["the same"] * VOTERS,
        )
        self.assertEqual(answers.count("the same"), 1)
        self.assertEqual(answers.count("already_cast"), VOTERS - 1)
        self.assertEqual(self.votes(), 1)


# The live server speaks plain HTTP, whatever the site is set to.
@override_settings(SECURE_SSL_REDIRECT=False, SESSION_COOKIE_SECURE=False, CSRF_COOKIE_SECURE=False)
class LiveServerTests(LiveServerTestCase):
    """Browsers with cookies of their own against a server with threads of its own."""

    def vote(self, text):
        """Fetch the ballot paper, fill it in, send it, and return the page that follows."""
        jar = urllib.request.HTTPCookieProcessor(CookieJar())
        # No proxy of the machine's: the server is on this one.
        browser = urllib.request.build_opener(jar, urllib.request.ProxyHandler({}))
        url = self.live_server_url + self.question.get_absolute_url()
        with browser.open(url, timeout=60) as answer:
            page = answer.read().decode()
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page).group(1)
        choice = re.search(r'value="(\d+)"[^>]*>\s*' + text, page).group(1)
        form = urllib.parse.urlencode({"csrfmiddlewaretoken": token, "choices": choice})
        with browser.open(url, form.encode(), timeout=60) as answer:
            return answer.geturl(), answer.read().decode()

    def test_votes_over_http(self):
        self.question = factory.question()
        texts = ["Soup", "Salad", "Soup", "Bread", "Soup", "Salad"]
        for url, page in together(self.vote, texts):
            self.assertTrue(url.endswith("/results/"), url)
            self.assertIn("Your vote has been counted.", page)
        self.assertEqual(
            [(row.text, row.votes) for row in self.question.results()],
            [("Soup", 3), ("Salad", 2), ("Bread", 1)],
        )

    def test_a_form_without_token_is_refused(self):
        self.question = factory.question()
        url = self.live_server_url + self.question.get_absolute_url()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with self.assertRaises(urllib.error.HTTPError) as caught:
            opener.open(url, b"choices=1", timeout=60)
        self.assertEqual(caught.exception.code, 403)
        caught.exception.close()
