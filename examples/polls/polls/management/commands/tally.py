"""The results on standard output, and proof that the counters are right."""

import csv
import json

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.db.models import Count

from polls.models import Choice, Question, Vote


class Command(BaseCommand):
    """`tally [SLUG ...] [--format text|csv|json] [--recount [--repair]]`."""

    help = "Print the results of questions; with --recount check the counters against the ballots."

    def add_arguments(self, parser):
        parser.add_argument("slug", nargs="*", help="questions to print (default: all)")
        parser.add_argument("--format", choices=["text", "csv", "json"], default="text")
        parser.add_argument("--recount", action="store_true", help="count all ballots again")
        parser.add_argument("--repair", action="store_true", help="with --recount: set it right")

    def handle(self, *args, **options):
        if options["repair"] and not options["recount"]:
            raise CommandError("--repair needs --recount")
        found = self.find(options["slug"])
        if options["recount"]:
            self.recount(found, options["repair"])
        else:
            getattr(self, "print_" + options["format"])(found)

    def find(self, slugs):
        """Return the named questions in the order of their names, or all of them."""
        found = list(Question.objects.order_by("slug").prefetch_related("choices"))
        if not slugs:
            return found
        unknown = sorted(set(slugs) - {question.slug for question in found})
        if unknown:
            raise CommandError("no such question: " + ", ".join(unknown))
        return [question for question in found if question.slug in slugs]

    def recount(self, questions, repair):
        """Compare each counter with its votes; raise unless all agree or have been repaired."""
        wrong = 0
        with transaction.atomic():
            cast = dict(
                Vote.objects.filter(ballot__question__in=questions)
                .values_list("choice")
                .annotate(number=Count("pk"))
            )
            for question in questions:
                for choice in question.choices.all():
                    counted = cast.get(choice.pk, 0)
                    if counted == choice.votes:
                        continue
                    wrong += 1
                    self.stderr.write(
                        f"{question.slug}: {choice.text!r} says {choice.votes}, "
                        f"the ballots say {counted}"
                    )
                    if repair:
                        Choice.objects.filter(pk=choice.pk).update(votes=counted)
        if wrong and not repair:
            raise CommandError(f"{wrong} counters are wrong; --repair sets them right")
        self.stdout.write(f"{len(questions)} questions recounted, {wrong} counters repaired")

    def print_text(self, questions):
        for question in questions:
            self.stdout.write(f"{question.prompt} [{question.slug}]")
            for row in question.results():
                self.stdout.write(f"  {row.votes:6d}  {row.percent:5.1f} %  {row.text}")

    def print_csv(self, questions):
        writer = csv.writer(self.stdout, lineterminator="\n")
        writer.writerow(["question", "choice", "votes", "percent"])
        for question in questions:
            for row in question.results():
                writer.writerow([question.slug, row.text, row.votes, row.percent])

    def print_json(self, questions):
        answer = {
            question.slug: [{"choice": row.text, "votes": row.votes} for row in question.results()]
            for question in questions
        }
        self.stdout.write(json.dumps(answer, indent=2))
