"""The ballot paper."""

from django import forms

from . import voting
from .models import Choice


class BallotForm(forms.Form):
    """One question's choices: radio buttons for a single one, check boxes for several."""

    def __init__(self, question, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.question = question
        several = question.max_choices > 1
        field = forms.ModelMultipleChoiceField if several else forms.ModelChoiceField
        options = {} if several else {"empty_label": None}
        self.fields["choices"] = field(
            queryset=Choice.objects.filter(question=question),
            widget=forms.CheckboxSelectMultiple if several else forms.RadioSelect,
            label=f"Select up to {question.max_choices}" if several else "Select one",
            error_messages={
                "required": "Select at least one choice.",
                "invalid_choice": "This is not a choice of this question.",
                "invalid_pk_value": "This is not a choice of this question.",
            },
            **options,
        )

    def clean_choices(self):
        """Return a list, whether one or several may be selected."""
        value = self.cleaned_data["choices"]
        choices = [value] if isinstance(value, Choice) else list(value)
        if len(choices) > self.question.max_choices:
            raise forms.ValidationError(
                f"Select at most {self.question.max_choices} of the choices.", code="too_many"
            )
        return choices

    def cast(self, voter):
        """Cast the selected choices; a refusal becomes an error of this form."""
        try:
            return voting.cast(self.question, self.cleaned_data["choices"], voter)
        except voting.VotingError as error:
            self.add_error(None, forms.ValidationError(str(error), code=error.code))
            return None
