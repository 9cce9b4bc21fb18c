# SPDX-License-Identifier: BSD-2-Clause
"""How what was traced reaches people."""
