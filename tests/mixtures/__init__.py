"""Mixtures of experts: conversion, network and engines, with transformers as the judge."""
