"""Addresses of the API."""

from django.urls import path

from . import api

app_name = "api"

urlpatterns = [
    path("questions/", api.questions, name="questions"),
    path("questions/<slug:slug>/", api.question, name="question"),
    path("questions/<slug:slug>/ballots/", api.ballots, name="ballots"),
]
