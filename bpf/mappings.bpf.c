/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The mappings of a task with their flags, for the daemon to read (an iterator, of one task since Linux 6.1). /proc/PID/smaps has the
 * same flags, but visits each page for what else it says.
 */
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

struct seq_file;
struct task_struct;

struct bpf_iter_meta {
	struct seq_file *seq;
} __attribute__((preserve_access_index));

struct vm_area_struct {
	unsigned long vm_start, vm_end, vm_flags;
} __attribute__((preserve_access_index));

struct bpf_iter__task_vma {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	struct vm_area_struct *vma;
} __attribute__((preserve_access_index));

SEC("iter/task_vma")
int hp_mappings(struct bpf_iter__task_vma *context)
{
	const struct vm_area_struct *vma = context->vma;
	__u64 found[3];

	if (!vma)
		return 0;
	found[0] = vma->vm_start;
	found[1] = vma->vm_end;
	found[2] = vma->vm_flags;
	bpf_seq_write(context->meta->seq, found, sizeof found);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
