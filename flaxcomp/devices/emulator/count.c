/* A plugin of QEMU's that counts the instructions which the emulated program's first thread executes.
 *
 * Whenever the program calls getsid, which does nothing and nobody needs, the total so far is written as a line of text to the
 * file that the environment's FLAXCOMP_COUNTS names. Other threads are not counted.
 * The declarations are QEMU's plugin API, version 1 (QEMU 4.2 to 8.2), which Debian ships no header of.
 */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

typedef uint64_t word;
struct block; /* of instructions that are translated together, and executed from the first to the last */
size_t qemu_plugin_tb_n_insns(const struct block *);
void qemu_plugin_register_vcpu_tb_trans_cb(word plugin, void (*)(word plugin, struct block *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct block *, void (*)(unsigned thread, void *data), int flags, void *data);
void qemu_plugin_register_vcpu_syscall_cb(word plugin, void (*)(word plugin, unsigned thread, int64_t number, word, word, word,
                                                                word, word, word, word, word));

int qemu_plugin_version = 1;
enum { NO_REGISTERS = 0, GETSID = 156 /* on aarch64 */ };
static word executed;
static FILE *file;

static void execute(unsigned thread, void *instructions)
{
    if (thread == 0)
        executed += (uintptr_t)instructions;
}

static void translate(word plugin, struct block *block)
{
    (void)plugin;
    qemu_plugin_register_vcpu_tb_exec_cb(block, execute, NO_REGISTERS, (void *)qemu_plugin_tb_n_insns(block));
}

static void call(word plugin, unsigned thread, int64_t number, word a, word b, word c, word d, word e, word f, word g, word h)
{
    (void)plugin, (void)a, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
    if (thread == 0 && number == GETSID) {
        fprintf(file, "%" PRIu64 "\n", executed);
        fflush(file);
    }
}

int qemu_plugin_install(word plugin, const void *qemu, int count, char **arguments)
{
    const char *path = getenv("FLAXCOMP_COUNTS");
    (void)qemu, (void)count, (void)arguments;
    if (!path || !(file = fopen(path, "w")))
        return 1;
    qemu_plugin_register_vcpu_tb_trans_cb(plugin, translate);
    qemu_plugin_register_vcpu_syscall_cb(plugin, call);
    return 0;
}
