"""Bench measures: scenarios, open-loop replay, attainment, capacity search, reports."""
