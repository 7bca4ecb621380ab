"""All encoders, in the order of docs/families.md."""

from __future__ import annotations

from inflight.convert.families.family import Family
from inflight.convert.families.rows.encoders.albert import ALBERT
from inflight.convert.families.rows.encoders.bert import BERT_LIKE
from inflight.convert.families.rows.encoders.deberta import DEBERTA
from inflight.convert.families.rows.encoders.modernbert import EUROBERT, MODERNBERT
from inflight.convert.families.rows.encoders.rotary import ROTARY
from inflight.convert.families.rows.encoders.t5 import T5_LIKE

ENCODERS: tuple[Family, ...] = (*BERT_LIKE, ALBERT, MODERNBERT, EUROBERT, *ROTARY, *T5_LIKE, *DEBERTA)
