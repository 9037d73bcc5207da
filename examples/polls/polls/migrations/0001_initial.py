import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models

from polls.constraints import check


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Question",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("prompt", models.CharField(max_length=200)),
                ("slug", models.SlugField(max_length=80, unique=True)),
                ("details", models.TextField(blank=True)),
                (
                    "opens_at",
                    models.DateTimeField(db_index=True, default=django.utils.timezone.now),
                ),
                (
                    "closes_at",
                    models.DateTimeField(blank=True, help_text="Empty: stays open.", null=True),
                ),
                (
                    "max_choices",
                    models.PositiveSmallIntegerField(
                        default=1, help_text="How many choices one ballot may select."
                    ),
                ),
                (
                    "reveal",
                    models.CharField(
                        choices=[
                            ("always", "at any time"),
                            ("voted", "after one's own vote, or at the end"),
                            ("closed", "at the end"),
                        ],
                        default="voted",
                        max_length=10,
                    ),
                ),
            ],
            options={
                "ordering": ["-opens_at", "-pk"],
                "constraints": [
                    check(
                        "question_closes_after_it_opens",
                        models.Q(("closes_at__gt", models.F("opens_at"))),
                    ),
                    check("question_takes_a_choice", models.Q(("max_choices__gte", 1))),
                    check(
                        "question_reveal_is_known",
                        models.Q(("reveal__in", ["always", "voted", "closed"])),
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Choice",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("text", models.CharField(max_length=200)),
                ("position", models.PositiveSmallIntegerField(default=0)),
                ("votes", models.PositiveIntegerField(default=0, editable=False)),
                (
                    "question",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="choices",
                        to="polls.question",
                    ),
                ),
            ],
            options={
                "ordering": ["position", "pk"],
            },
        ),
        migrations.CreateModel(
            name="Ballot",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("voter", models.CharField(max_length=64)),
                ("cast_at", models.DateTimeField()),
                (
                    "question",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="ballots",
                        to="polls.question",
                    ),
                ),
            ],
            options={
                "ordering": ["cast_at", "pk"],
            },
        ),
        migrations.CreateModel(
            name="Vote",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "ballot",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="votes",
                        to="polls.ballot",
                    ),
                ),
                (
                    "choice",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.RESTRICT,
                        related_name="+",
                        to="polls.choice",
                    ),
                ),
            ],
        ),
        migrations.AddConstraint(
            model_name="choice",
            constraint=models.UniqueConstraint(
                fields=("question", "text"), name="choice_text_is_unique"
            ),
        ),
        migrations.AddConstraint(
            model_name="ballot",
            constraint=models.UniqueConstraint(
                fields=("question", "voter"), name="one_ballot_per_voter"
            ),
        ),
        migrations.AddConstraint(
            model_name="vote",
            constraint=models.UniqueConstraint(
                fields=("ballot", "choice"), name="one_vote_per_choice"
            ),
        ),
    ]
