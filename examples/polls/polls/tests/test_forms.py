"""The ballot paper."""

from django import forms
from django.test import TestCase

from polls.forms import BallotForm

from . import factory


class BallotFormTests(TestCase):
    def test_one_choice_has_radio_buttons_without_an_empty_one(self):
        form = BallotForm(factory.question())
        self.assertIsInstance(form.fields["choices"].widget, forms.RadioSelect)
        self.assertEqual(str(form["choices"]).count('type="radio"'), 3)

    def test_several_choices_have_check_boxes(self):
        form = BallotForm(factory.question(max_choices=2))
        self.assertEqual(str(form["choices"]).count('type="checkbox"'), 3)
        self.assertEqual(form.fields["choices"].label, "Select up to 2")

    def test_cleaned_value_is_a_list_either_way(self):
        for most in (1, 2):
            with self.subTest(max_choices=most):
                question = factory.question(f"q{most}", max_choices=most)
                choice = question.choices.first()
                form = BallotForm(question, {"choices": [choice.pk] if most > 1 else choice.pk})
                self.assertTrue(form.is_valid(), form.errors)
                self.assertEqual(form.cleaned_data["choices"], [choice])

    def test_nothing_selected(self):
        form = BallotForm(factory.question(), {})
        self.assertEqual(form.errors, {"choices": ["Select at least one choice."]})

    def test_too_many_selected(self):
        question = factory.question(max_choices=2)
        form = BallotForm(question, {"choices": [choice.pk for choice in question.choices.all()]})
        self.assertTrue(form.has_error("choices", "too_many"))

    def test_choice_of_another_question_and_nonsense(self):
        question, other = factory.question(), factory.question("dinner")
        for value in (other.choices.first().pk, 0, "soup", "1 OR 1=1"):
            with self.subTest(value=value):
                form = BallotForm(question, {"choices": value})
                self.assertTrue(form.has_error("choices", "invalid_choice"))

    def test_refusal_becomes_an_error_of_the_form(self):
        question = factory.question()
        data = {"choices": question.choices.first().pk}
        first, second = BallotForm(question, data), BallotForm(question, data)
        self.assertTrue(first.is_valid() and second.is_valid())
        self.assertIsNotNone(first.cast("a"))
        self.assertIsNone(second.cast("a"))
        self.assertTrue(second.has_error(forms.forms.NON_FIELD_ERRORS, "already_cast"))

    def test_texts_are_escaped(self):
        question = factory.question(texts=("<script>alert(1)</script>",))
        self.assertNotIn("<script>", str(BallotForm(question)["choices"]))
