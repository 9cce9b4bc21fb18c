# SPDX-License-Identifier: BSD-2-Clause
"""How tools are loaded, attached and read."""
