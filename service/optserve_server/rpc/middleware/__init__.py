"""Interceptors: admission, logging, tracing, request reading."""
