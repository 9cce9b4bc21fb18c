# SPDX-License-Identifier: BSD-2-Clause
"""Measure tracewheel beside libbpf-tools, bpftrace and bcc."""
