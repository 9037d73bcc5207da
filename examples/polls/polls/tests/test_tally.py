"""The command `tally`."""

import csv
import io
import json

from django.core.management import CommandError, call_command
from django.test import TestCase

from polls import voting
from polls.models import Choice

from . import factory


def tally(*args, **options):
    out, err = io.StringIO(), io.StringIO()
    call_command("tally", *args, stdout=out, stderr=err, **options)
    return out.getvalue(), err.getvalue()


class TallyTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.lunch = factory.question("lunch", texts=("Soup", 'Salad, "mixed"'))
        cls.dinner = factory.question("dinner")
        soup, salad = cls.lunch.choices.all()
        for voter, choice in (("a", salad), ("b", salad), ("c", soup)):
            voting.cast(cls.lunch, [choice], voter)

    def spoil(self):
        Choice.objects.filter(text="Soup", question=self.lunch).update(votes=7)

    def test_text(self):
        out, _ = tally("lunch")
        self.assertEqual(
            out.splitlines(),
            [
                "What about lunch? [lunch]",
                '       2   66.7 %  Salad, "mixed"',
                "       1   33.3 %  Soup",
            ],
        )

    def test_all_by_default_in_order_of_name(self):
        self.assertEqual(list(json.loads(tally(format="json")[0])), ["dinner", "lunch"])

    def test_csv_can_be_read_back(self):
        rows = list(csv.DictReader(io.StringIO(tally("lunch", format="csv")[0])))
        self.assertEqual(
            rows[0],
            {"question": "lunch", "choice": 'Salad, "mixed"', "votes": "2", "percent": "66.7"},
        )

    def test_json(self):
        self.assertEqual(
            json.loads(tally("lunch", format="json")[0]),
            {"lunch": [{"choice": 'Salad, "mixed"', "votes": 2}, {"choice": "Soup", "votes": 1}]},
        )

    def test_unknown_questions_are_named(self):
        with self.assertRaisesMessage(CommandError, "no such question: breakfast, tea"):
            tally("tea", "lunch", "breakfast")

    def test_recount_agrees(self):
        self.assertEqual(tally(recount=True), ("2 questions recounted, 0 counters repaired\n", ""))

    def test_recount_finds_a_wrong_counter_and_leaves_it(self):
        self.spoil()
        with self.assertRaisesMessage(CommandError, "1 counters are wrong"):
            tally(recount=True)
        self.assertEqual(self.lunch.choices.get(text="Soup").votes, 7)

    def test_recount_of_another_question_does_not_look_there(self):
        self.spoil()
        self.assertIn("1 questions recounted, 0", tally("dinner", recount=True)[0])

    def test_repair(self):
        self.spoil()
        out, err = tally(recount=True, repair=True)
        self.assertIn("1 counters repaired", out)
        self.assertIn("lunch: 'Soup' says 7, the ballots say 1", err)
        self.assertEqual(self.lunch.choices.get(text="Soup").votes, 1)

    def test_repair_alone(self):
        with self.assertRaisesMessage(CommandError, "--repair needs --recount"):
            tally(repair=True)
