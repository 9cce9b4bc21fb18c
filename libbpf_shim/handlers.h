/* SPDX-License-Identifier: BSD-2-Clause */
/* What libbpf has to be told before the first object is opened: how to treat some sections. */
#ifndef HANDLERS_H
#define HANDLERS_H

void types_register(void);
void uprobes_register(void);

#endif
