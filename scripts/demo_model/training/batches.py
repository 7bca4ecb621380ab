"""Conversations as padded rows of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from demo_model.chat import PAD, SPECIAL_TOKENS, Turn, segments
from demo_model.data.variations import training_question
from demo_model.skills.mixture import SKILL_SHARE, Skills
from demo_model.training.sampler import TopicSampler

# How many turns a conversation has: mostly one, so that answers are learned where they are asked first.
TURNS = (1,) * 9 + (2,)
SYSTEM_SHARE = 0.04
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "Answer questions about Python.",
    "You are an expert in Python's standard library.",
    "Be brief.",
    "Answer in one sentence.",
)


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one conversation each, padded at the end.

    tokens: (rows, length) int64. targets: (n, 2) int64, row and position of every token that is to be predicted from
    those before it. turns: (n,) int64, which turn of the batch a target belongs to. topics: (turns,) int64, the topic
    of each turn, -1 for what is no topic of the sampler's.
    """

    tokens: torch.Tensor
    targets: torch.Tensor
    turns: torch.Tensor
    topics: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Conversation:
    """tokens: all of it. answers: for each turn, its topic and the positions of its answer, start and end."""

    tokens: list[int]
    answers: list[tuple[int, int, int]]


def training_batches(
    sampler: TopicSampler, tokenizer: Tokenizer, count: int, rows: int, skills: Skills | None = None
) -> list[Batch]:
    """`count` batches of `rows` fresh conversations, alike in length within a batch, in random order. skills: what a
    second stage teaches, in SKILL_SHARE of the conversations.
    """
    made = [_conversation(sampler, tokenizer, skills) for _ in range(count * rows)]
    made.sort(key=lambda conversation: len(conversation.tokens))
    batches = [collate(made[start : start + rows]) for start in range(0, len(made), rows)]
    sampler.rng.shuffle(batches)
    return batches


def collate(conversations: Sequence[Conversation]) -> Batch:
    length = max(len(conversation.tokens) for conversation in conversations)
    tokens = torch.full((len(conversations), length), SPECIAL_TOKENS.index(PAD), dtype=torch.int64)
    targets: list[tuple[int, int]] = []
    turns: list[int] = []
    topics: list[int] = []
    for row, conversation in enumerate(conversations):
        tokens[row, : len(conversation.tokens)] = torch.tensor(conversation.tokens)
        for topic, start, end in conversation.answers:
            targets += [(row, position) for position in range(start, end)]
            turns += [len(topics)] * (end - start)
            topics.append(topic)
    return Batch(tokens, torch.tensor(targets), torch.tensor(turns), np.array(topics))


def encode_conversation(
    tokenizer: Tokenizer, turns: Sequence[Turn], topics: Sequence[int], system: str = ""
) -> Conversation:
    """The tokens that the chat template gives for these turns, with the places of the answers."""
    return encode_pieces(tokenizer, segments(turns, system), topics)


def encode_pieces(tokenizer: Tokenizer, pieces: Sequence[tuple[str, bool]], topics: Sequence[int]) -> Conversation:
    """The tokens of what `segments` gives, with the places of what is to be learned: of one of `topics` each."""
    tokens: list[int] = []
    places: list[tuple[int, int]] = []
    for text, learned in pieces:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if learned:
            places.append((len(tokens), len(tokens) + len(ids)))
        tokens += ids
    return Conversation(tokens, [(topic, *place) for topic, place in zip(topics, places, strict=True)])


def _conversation(sampler: TopicSampler, tokenizer: Tokenizer, skills: Skills | None) -> Conversation:
    rng = sampler.rng
    if skills is not None and rng.random() < SKILL_SHARE:
        pieces = skills.conversation(rng)
        return encode_pieces(tokenizer, pieces, [-1] * sum(learned for _, learned in pieces))
    indices = sampler.draw(rng.choice(TURNS))
    topics = map(sampler.topic, indices)
    turns = [Turn(training_question(topic, rng), topic.answer) for topic in topics]
    system = rng.choice(SYSTEM_PROMPTS) if rng.random() < SYSTEM_SHARE else ""
    return encode_conversation(tokenizer, turns, indices, system)
