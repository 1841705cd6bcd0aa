/* A libnvidia-ml.so.1 for tests: one board of 300 W, by the names and structures that the real binding uses.
 *
 * FAKE_NVML in the environment, asked at every call, is a list such as "mig,lost":
 *   mismatch  the library is of another version than the kernel's module: it does not start
 *   mig       the board is a slice, found as MIG-..., of a GPU that tells no utilisation
 *   nopower   neither power nor energy, as of a laptop
 *   vgpu      no counter of energy
 *   wsl       no list of processes
 *   gb10      no memory of its own
 *   gh200     power and energy are told of the module only
 *   frozen    the counter of energy stands still
 *   falling   the counter of energy runs backwards
 *   absurd    megawatts
 *   noevents  errors are not reported
 *   xid       an error of the board is reported, and one of a program before it
 *   two       there is a second board; what is drawn depends on FAKE_NVML_LOAD, and no energy is counted
 *   lost      the board has left the bus
 *   hang      field values are never answered
 * `lost` and `hang` begin FAKE_NVML_AFTER_S seconds (0 if unset) after the start.
 * FAKE_NVML_FREED is a file that is there once a set of events has been freed.
 * FAKE_NVML_LOAD is a file: while it exists, the board whose number is in it works.
 * The energy counter follows CLOCK_MONOTONIC and is published every 100 ms, so that whoever reads that clock knows it.
 * Compiled with -DOLD_DRIVER it lacks the names that came later, field values among them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    SUCCESS = 0,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    TIMEOUT = 10,
    GPU_IS_LOST = 15,
    RM_VERSION_MISMATCH = 18,
    ARGUMENT_VERSION_MISMATCH = 25
};

#define UUID "11111111-2222-3333-4444-555555555555"
#define OTHER "99999999-2222-3333-4444-555555555555"
#define WATTS 300
#define IDLE_WATTS 80
#define PUBLISHED_MS 100

typedef unsigned long long u64;
typedef struct { int is_slice, number; } Device;

static Device gpu = {0, 0}, other = {0, 1}, slice = {1, 0};
static double started_s;

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static int is(const char *mode) {
    const char *modes = getenv("FAKE_NVML");
    return modes && strstr(modes, mode);
}

static int begun(const char *mode) {
    const char *after_s = getenv("FAKE_NVML_AFTER_S");
    return is(mode) && now_s() - started_s >= (after_s ? atof(after_s) : 0);
}

static u64 millijoules(void) {
    u64 published = (u64)(now_s() * 1000 / PUBLISHED_MS) * PUBLISHED_MS;
    if (is("frozen")) return 1000;
    if (is("falling")) return (1ull << 50) - WATTS * published;
    return WATTS * published; /* a watt for a millisecond */
}

static unsigned watts(const Device *device) {
    if (is("absurd")) return 4000000;
    if (!is("two")) return WATTS;
    const char *path = getenv("FAKE_NVML_LOAD");
    FILE *load = path ? fopen(path, "r") : NULL;
    int works = load && fgetc(load) == '0' + device->number;
    if (load) fclose(load);
    return works ? WATTS : IDLE_WATTS;
}

/* What a call answers for a quantity that this board has. */
static int tell(unsigned *out, unsigned value) {
    if (begun("lost")) return GPU_IS_LOST;
    *out = value;
    return SUCCESS;
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    started_s = now_s();
    return is("mismatch") ? RM_VERSION_MISMATCH : SUCCESS;
}

int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int code) {
    return code == ARGUMENT_VERSION_MISMATCH ? "Argument version mismatch" : "Unknown Error";
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Device **device) {
    if (begun("lost")) return GPU_IS_LOST;
    *device = is("mig") ? &slice : &gpu;
    if (is("two") && !strcmp(uuid, "GPU-" OTHER)) return *device = &other, SUCCESS;
    return strcmp(uuid, is("mig") ? "MIG-" UUID : "GPU-" UUID) ? NOT_FOUND : SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = is("two") ? 2 : 1;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **device) {
    *device = index ? &other : &gpu;
    return SUCCESS;
}

int nvmlDeviceGetUUID(Device *device, char *uuid, unsigned length) {
    strncpy(uuid, device->number ? "GPU-" OTHER : "GPU-" UUID, length);
    return SUCCESS;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Device *device, Device **whole) {
    *whole = &gpu;
    return device->is_slice ? SUCCESS : NOT_FOUND;
}

int nvmlDeviceGetMigMode(Device *device, unsigned *current, unsigned *pending) {
    (void)device;
    *pending = is("mig") != 0;
    return tell(current, is("mig") != 0);
}

int nvmlDeviceGetTotalEnergyConsumption(Device *device, u64 *energy) {
    if (begun("lost")) return GPU_IS_LOST;
    if (device->is_slice || is("nopower") || is("vgpu") || is("two") || is("gh200")) return NOT_SUPPORTED;
    *energy = millijoules();
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(Device *device, unsigned *milliwatts) {
    if (device->is_slice || is("nopower") || is("gh200")) return NOT_SUPPORTED;
    return tell(milliwatts, watts(device) * 1000);
}

int nvmlDeviceGetEnforcedPowerLimit(Device *device, unsigned *milliwatts) {
    return device->is_slice ? NOT_SUPPORTED : tell(milliwatts, 700000);
}

int nvmlDeviceGetCudaComputeCapability(Device *device, int *major, int *minor) {
    (void)device;
    *major = 9, *minor = 0;
    return SUCCESS;
}

int nvmlDeviceGetClockInfo(Device *device, unsigned type, unsigned *megahertz) {
    return device->is_slice ? NOT_SUPPORTED : tell(megahertz, type == 1 ? 1755 : 2619);
}

int nvmlDeviceGetTemperature(Device *device, unsigned sensor, unsigned *celsius) {
    (void)sensor;
    return device->is_slice ? NOT_SUPPORTED : tell(celsius, 62);
}

typedef struct { unsigned gpu, memory; } Utilization;
int nvmlDeviceGetUtilizationRates(Device *device, Utilization *rates) {
    (void)device;
    if (is("mig")) return NOT_SUPPORTED;
    rates->memory = 41;
    return tell(&rates->gpu, 97);
}

typedef struct { u64 total, free, used; } Memory;
int nvmlDeviceGetMemoryInfo(Device *device, Memory *memory) {
    if (is("gb10")) return NOT_SUPPORTED;
    memory->total = (device->is_slice ? 10ull : 80ull) << 30;
    memory->used = 2ull << 30, memory->free = memory->total - memory->used;
    return SUCCESS;
}

/* Two processes: the first call, for the size, gets no array. Each is of 24 bytes, and none of them is read. */
int nvmlDeviceGetComputeRunningProcesses_v3(Device *device, unsigned *count, void *processes) {
    (void)device;
    if (is("wsl")) return NOT_SUPPORTED;
    *count = 2;
    if (!processes) return INSUFFICIENT_SIZE;
    memset(processes, 0, 2 * 24);
    return SUCCESS;
}

#ifndef OLD_DRIVER
typedef struct { unsigned version, sensor; int celsius; } Temperature;
int nvmlDeviceGetTemperatureV(Device *device, Temperature *asked) {
    if (asked->version != (sizeof(Temperature) | 1u << 24)) return ARGUMENT_VERSION_MISMATCH;
    return device->is_slice ? NOT_SUPPORTED : tell((unsigned *)&asked->celsius, 61);
}

typedef struct { unsigned version; int celsius; } Margin;
int nvmlDeviceGetMarginTemperature(Device *device, Margin *asked) {
    (void)device, (void)asked;
    return ARGUMENT_VERSION_MISMATCH;
}

typedef struct {
    unsigned field, scope;
    long long timestamp, latency_us;
    unsigned type, answer;
    union { double d; unsigned ui; unsigned long ul; u64 ull; long long sll; int si; unsigned short us; } value;
} FieldValue;

int nvmlDeviceGetFieldValues(Device *device, int count, FieldValue *values) {
    while (begun("hang")) pause();
    if (begun("lost")) return GPU_IS_LOST;
    for (FieldValue *it = values; it < values + count; it++) {
        int power = it->field == 185 || it->field == 186, throttle = it->field == 74;
        int energy = it->field == (is("gh200") ? 191 : 83), counted = !is("vgpu") && !is("two");
        unsigned scope = is("gh200") && (power || energy); /* of the module */
        it->answer = SUCCESS;
        it->value.ull = 424242; /* what an entry that fails may hold */
        if (device->is_slice || it->scope != scope || ((power || energy) && is("nopower"))) it->answer = NOT_SUPPORTED;
        else if (power) it->type = 1, it->value.ui = watts(device) * 1000;
        else if (energy && counted) it->type = 3, it->value.ull = millijoules();
        else if (throttle) it->type = 3, it->value.ull = 2500000000ull;
        else if (it->field == 82) it->type = 5, it->value.si = 70;
        else it->answer = NOT_SUPPORTED;
    }
    return SUCCESS;
}

/* Events: a set holds how many of them were read. */
typedef struct { int read; } Events;
typedef struct { Device *device; u64 type, data; unsigned gpu_instance, compute_instance; } Event;

int nvmlEventSetCreate(Events **set) {
    *set = calloc(1, sizeof(Events));
    return SUCCESS;
}

int nvmlDeviceRegisterEvents(Device *device, u64 types, Events *set) {
    (void)device, (void)set;
    if (is("noevents")) return NOT_SUPPORTED;
    return types == 8 ? SUCCESS : INVALID_ARGUMENT;
}

int nvmlEventSetWait_v2(Events *set, Event *event, unsigned timeout_ms) {
    static const u64 xids[] = {31, 79};
    if (timeout_ms) return INVALID_ARGUMENT; /* whoever waits here holds the sampler up */
    if (!is("xid") || set->read == 2) return TIMEOUT;
    memset(event, 0, sizeof *event);
    event->type = 8, event->data = xids[set->read++];
    return SUCCESS;
}

int nvmlEventSetFree(Events *set) {
    const char *path = getenv("FAKE_NVML_FREED");
    FILE *freed = path ? fopen(path, "w") : NULL;
    if (freed) fclose(freed);
    free(set);
    return SUCCESS;
}
#endif
