/* FastCDC 2020's cut points, as pyfastcdc finds them, and XXH3-128 of the chunks: at once, or in a
   thread of its own while the caller does something else.

   A hash is a sum in which each byte moves up one bit per step; the masks look at bits below 48,
   so it depends on the last 48 bytes only. Thus four stretches of one chunk can be hashed at once,
   each begun 64 bytes early, and the processor has four chains of dependent steps instead of one.
   core/chunking.py says what the parameters are; tests/core compares with pyfastcdc and xxhash. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

enum { WARM = 64, STRETCH = 2048, MASK_BITS_MAX = 48 };

static uint64_t gear[256];
static uint64_t mask_small, mask_large;
static size_t min_size, average_size, max_size;

#define UNLIKELY(x) __builtin_expect(x, 0)
#define STEP(hash, byte) ((hash) = ((hash) << 1) + gear[byte])

/* Return the first place of from..to at which the hash matches, else to; *state is the hash. */
static size_t find_one(const uint8_t *data, size_t from, size_t to, uint64_t mask, uint64_t *state)
{
    uint64_t hash = *state;
    for (size_t at = from; at < to; at++) {
        STEP(hash, data[at]);
        if (!(hash & mask)) {
            *state = hash;
            return at;
        }
    }
    *state = hash;
    return to;
}

static uint64_t warmed(const uint8_t *data, size_t at)
{
    uint64_t hash = 0;
    for (size_t before = at - WARM; before < at; before++)
        STEP(hash, data[before]);
    return hash;
}

static size_t find(const uint8_t *data, size_t from, size_t to, uint64_t mask, uint64_t *state)
{
    while (from + 4 * STRETCH <= to) {
        uint64_t h0 = *state, h1 = warmed(data, from + STRETCH),
                 h2 = warmed(data, from + 2 * STRETCH), h3 = warmed(data, from + 3 * STRETCH);
        const uint8_t *p = data + from;
        size_t i = 0;
        for (; i < STRETCH; i++) {
            STEP(h0, p[i]);
            STEP(h1, p[i + STRETCH]);
            STEP(h2, p[i + 2 * STRETCH]);
            STEP(h3, p[i + 3 * STRETCH]);
            if (UNLIKELY(!(h0 & mask)))
                break;
            if (UNLIKELY(!(h1 & mask)))
                break;
            if (UNLIKELY(!(h2 & mask)))
                break;
            if (UNLIKELY(!(h3 & mask)))
                break;
        }
        if (i < STRETCH) {
            /* The first match counts: what is before this one has yet to be looked at. */
            uint64_t hashes[4] = {h0, h1, h2, h3};
            for (int k = 0; k < 4; k++) {
                size_t stop = from + (k + 1) * STRETCH, at = from + k * STRETCH + i;
                if (hashes[k] & mask)
                    at = find_one(data, at + 1, stop, mask, &hashes[k]);
                if (at < stop) {
                    *state = hashes[k];
                    return at;
                }
            }
        }
        *state = h3;
        from += 4 * STRETCH;
    }
    return find_one(data, from, to, mask, state);
}

static size_t cut_one(const uint8_t *data, size_t length)
{
    size_t center = average_size;
    if (length <= min_size)
        return length;
    if (length > max_size)
        length = max_size;
    else if (length < center)
        center = length;
    /* pyfastcdc takes two bytes at a time: an odd one at the end is not looked at */
    size_t middle = center / 2 * 2, end = length / 2 * 2;
    uint64_t hash = 0;
    size_t at = find(data, min_size, middle, mask_small, &hash);
    if (at < middle)
        return at;
    at = find(data, middle, end, mask_large, &hash);
    return at < end ? at : length;
}

static PyObject *configure(PyObject *self, PyObject *args)
{
    (void)self;
    Py_buffer table;
    unsigned long long small, large;
    Py_ssize_t least, average, most;
    if (!PyArg_ParseTuple(args, "y*KKnnn", &table, &small, &large, &least, &average, &most))
        return NULL;
    int is_good = table.len == sizeof gear && !((small | large) >> MASK_BITS_MAX) &&
                  least >= WARM && least % 2 == 0 && least <= average && average <= most;
    if (is_good) {
        memcpy(gear, table.buf, sizeof gear);
        mask_small = small, mask_large = large;
        min_size = least, average_size = average, max_size = most;
    }
    PyBuffer_Release(&table);
    if (!is_good) {
        PyErr_SetString(PyExc_ValueError, "chunking parameters out of range");
        return NULL;
    }
    Py_RETURN_NONE;
}

/* XXH128_hash_t and XXH3_128bits of xxhash.h; libxxhash keeps them since 0.8.0. */
typedef struct { uint64_t low64, high64; } hash128;
enum { NAME_BYTES = 16 };
static hash128 (*xxh3_128)(const void *, size_t);

static void put_name(uint8_t *name, const uint8_t *data, size_t length)
{
    hash128 hash = xxh3_128(data, length);
    for (int i = 0; i < 8; i++) {
        name[i] = hash.high64 >> (56 - 8 * i);
        name[8 + i] = hash.low64 >> (56 - 8 * i);
    }
}

/* What the thread does: join parts, cut the whole, name the chunks. It touches no Python object's
   reference count; `waiting` is guarded by `lock`, and so is `is_done`. */
typedef struct job {
    PyObject_HEAD
    struct job *next;
    PyObject *whole; /* bytes, filled by the thread */
    size_t length, count, capacity;
    size_t *lengths;
    uint8_t *names; /* NAME_BYTES each */
    Py_buffer *parts;
    Py_ssize_t part_count;
    int is_queued, is_done;
} job;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t queued = PTHREAD_COND_INITIALIZER, done = PTHREAD_COND_INITIALIZER;
static job *first_waiting, *last_waiting;
static pid_t worker_of; /* the process that has the thread: a fork has none */

static void work_on(job *self)
{
    uint8_t *data = (uint8_t *)PyBytes_AS_STRING(self->whole);
    size_t at = 0;
    for (Py_ssize_t i = 0; i < self->part_count; i++) {
        memcpy(data + at, self->parts[i].buf, self->parts[i].len);
        at += self->parts[i].len;
    }
    self->count = 0;
    for (at = 0; at < self->length; at += self->lengths[self->count++]) {
        self->lengths[self->count] = cut_one(data + at, self->length - at);
        if (self->names)
            put_name(self->names + self->count * NAME_BYTES, data + at,
                     self->lengths[self->count]);
    }
}

static void *work(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!first_waiting)
            pthread_cond_wait(&queued, &lock);
        job *self = first_waiting;
        first_waiting = self->next;
        pthread_mutex_unlock(&lock);
        work_on(self);
        pthread_mutex_lock(&lock);
        self->is_done = 1;
        pthread_cond_broadcast(&done);
    }
    return NULL;
}

static int start_worker(void)
{
    if (worker_of == getpid())
        return 0;
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&thread, NULL, work, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) {
        errno = error;
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    pthread_detach(thread);
    worker_of = getpid();
    return 0;
}

static void wait_for(job *self)
{
    Py_BEGIN_ALLOW_THREADS
    pthread_mutex_lock(&lock);
    while (!self->is_done)
        pthread_cond_wait(&done, &lock);
    pthread_mutex_unlock(&lock);
    Py_END_ALLOW_THREADS
}

static void job_free(job *self)
{
    if (self->is_queued)
        wait_for(self);
    for (Py_ssize_t i = 0; i < self->part_count; i++)
        PyBuffer_Release(&self->parts[i]);
    PyMem_Free(self->parts);
    PyMem_Free(self->lengths);
    PyMem_Free(self->names);
    Py_XDECREF(self->whole);
    PyObject_Free(self);
}

static PyObject *job_result(job *self, PyObject *unused)
{
    (void)unused;
    wait_for(self);
    PyObject *lengths = PyList_New(self->count);
    PyObject *names = PyList_New(self->names ? self->count : 0);
    if (!lengths || !names)
        goto failed;
    for (size_t i = 0; i < self->count; i++) {
        PyObject *number = PyLong_FromSize_t(self->lengths[i]);
        if (!number)
            goto failed;
        PyList_SET_ITEM(lengths, i, number);
        if (!self->names)
            continue;
        PyObject *name =
            PyBytes_FromStringAndSize((char *)self->names + i * NAME_BYTES, NAME_BYTES);
        if (!name)
            goto failed;
        PyList_SET_ITEM(names, i, name);
    }
    return Py_BuildValue("(ONN)", self->whole, lengths, names);
failed:
    Py_XDECREF(lengths);
    Py_XDECREF(names);
    return NULL;
}

static PyMethodDef job_methods[] = {
    {"result", (PyCFunction)job_result, METH_NOARGS,
     "result(): the joined bytes, the chunks' lengths, their names (none without libxxhash)."},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject job_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "dedupfs.core._chunking.Job",
    .tp_basicsize = sizeof(job),
    .tp_dealloc = (destructor)job_free,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_methods = job_methods,
};

/* Return a job with room for everything it makes, not queued. */
static job *new_job(PyObject *sequence)
{
    job *self = PyObject_New(job, &job_type);
    if (!self)
        return NULL;
    memset((char *)self + offsetof(job, next), 0, sizeof *self - offsetof(job, next));
    Py_ssize_t count = PySequence_Fast_GET_SIZE(sequence);
    self->parts = PyMem_Calloc(count + 1, sizeof *self->parts);
    if (!self->parts)
        goto failed;
    for (; self->part_count < count; self->part_count++) {
        PyObject *part = PySequence_Fast_GET_ITEM(sequence, self->part_count);
        Py_buffer *view = &self->parts[self->part_count];
        if (PyObject_GetBuffer(part, view, PyBUF_SIMPLE))
            goto failed;
        self->length += view->len;
    }
    self->capacity = self->length / min_size + 1;
    self->whole = PyBytes_FromStringAndSize(NULL, self->length);
    self->lengths = PyMem_Calloc(self->capacity, sizeof *self->lengths);
    if (xxh3_128)
        self->names = PyMem_Calloc(self->capacity, NAME_BYTES);
    if (!self->whole || !self->lengths || (xxh3_128 && !self->names))
        goto failed;
    return self;
failed:
    Py_DECREF(self);
    return PyErr_Occurred() ? NULL : (job *)PyErr_NoMemory();
}

static PyObject *begin(PyObject *module, PyObject *parts)
{
    (void)module;
    if (!min_size)
        return PyErr_Format(PyExc_RuntimeError, "not configured");
    PyObject *sequence = PySequence_Fast(parts, "a sequence of bytes");
    if (!sequence)
        return NULL;
    job *self = new_job(sequence);
    Py_DECREF(sequence);
    if (!self || start_worker()) {
        Py_XDECREF(self);
        return NULL;
    }
    self->is_queued = 1;
    pthread_mutex_lock(&lock);
    if (first_waiting)
        last_waiting->next = self;
    else
        first_waiting = self;
    last_waiting = self;
    pthread_cond_signal(&queued);
    pthread_mutex_unlock(&lock);
    return (PyObject *)self;
}

static PyObject *cut(PyObject *module, PyObject *source)
{
    (void)module;
    if (!min_size)
        return PyErr_Format(PyExc_RuntimeError, "not configured");
    Py_buffer data;
    if (PyObject_GetBuffer(source, &data, PyBUF_SIMPLE))
        return NULL;
    PyObject *list = PyList_New(0);
    size_t length = data.len, piece;
    for (size_t at = 0; list && at < length; at += piece) {
        Py_BEGIN_ALLOW_THREADS
        piece = cut_one((const uint8_t *)data.buf + at, length - at);
        Py_END_ALLOW_THREADS
        PyObject *number = PyLong_FromSize_t(piece);
        if (!number || PyList_Append(list, number))
            Py_CLEAR(list);
        Py_XDECREF(number);
    }
    PyBuffer_Release(&data);
    return list;
}

static PyMethodDef methods[] = {
    {"configure", configure, METH_VARARGS,
     "configure(gear, mask_small, mask_large, min_size, average_size, max_size)"},
    {"begin", begin, METH_O, "begin(parts): cut and name the joined parts in a thread; a Job."},
    {"cut", cut, METH_O, "cut(data): the lengths of the chunks, as a list."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_chunking", "FastCDC cut points.", -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__chunking(void)
{
    void *library = dlopen("libxxhash.so.0", RTLD_NOW | RTLD_LOCAL);
    if (library)
        *(void **)&xxh3_128 = dlsym(library, "XXH3_128bits");
    if (PyType_Ready(&job_type))
        return NULL;
    return PyModule_Create(&module);
}
