/* What stock pyfuse3 cannot say in its replies: passthrough, and that a listing may be kept. And
 * large writes without a second copy, and work that is done when a request is answered.
 *
 * Imported with RTLD_GLOBAL before pyfuse3, so that pyfuse3's call of fuse_session_mount() finds
 * the one here. It mounts as libfuse does, then puts itself between libfuse and /dev/fuse
 * (fuse_session_custom_io): replies to OPEN, CREATE and OPENDIR whose handle is marked get flags,
 * the first two also a backing id. The bytes of a large WRITE are read from /dev/fuse into a Python
 * object at once; the request that libfuse sees has none, and `written` hands them out. Nothing else
 * is touched; INIT is handshake.py's. Structures and constants: include/uapi/linux/fuse.h of Linux 6.9.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define FUSE_USE_VERSION 314
#include <dlfcn.h>
#include <errno.h>
#include <fuse3/fuse_lowlevel.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OP_OPEN = 14, OP_WRITE = 16, OP_OPENDIR = 27, OP_CREATE = 35 };

#define OPENED_KEEP_CACHE (1u << 1)
#define OPENED_CACHE_DIR (1u << 3)
#define OPENED_PASSTHROUGH (1u << 7)

/* The mark: a file is to be passthrough, its backing id in bits 32 to 62; a listing may be kept. */
#define HANDLE_MARK (UINT64_C(1) << 63)
#define HANDLE_BACKING_ID(handle) ((int32_t)(((handle) >> 32) & 0x7fffffff))

struct in_header { uint32_t len, opcode; uint64_t unique, nodeid; uint32_t uid, gid, pid, extlen; };
struct write_in { uint64_t fh, offset; uint32_t size, flags; uint64_t owner; uint32_t f, padding; };
struct out_header { uint32_t len; int32_t error; uint64_t unique; };
struct open_out { uint64_t fh; uint32_t open_flags; int32_t backing_id; };
struct backing_map { int32_t fd; uint32_t flags; uint64_t padding; };

#define DEV_IOC_BACKING_OPEN _IOW(229, 1, struct backing_map)
#define DEV_IOC_BACKING_CLOSE _IOW(229, 2, uint32_t)

/* One session a process (pyfuse3's rule), served by one thread. */
static int fuse_fd = -1;

/* Requests to open without an answer yet: room for more than pyfuse3's 99 tasks. */
enum { WAITING = 256 };
static struct { uint64_t unique; uint32_t opcode; } waiting[WAITING];
static int waiting_count;

static void note_waiting(uint64_t unique, uint32_t opcode)
{
    for (int i = 0; i < WAITING; i++)
        if (!waiting[i].unique) {
            waiting[i].unique = unique;
            waiting[i].opcode = opcode;
            waiting_count++;
            return;
        }
}

/* The opcode of a request to open, 0 for any other, and for what is no reply: notifications, which
 * other threads send. */
static uint32_t take_waiting(uint64_t unique)
{
    if (!unique)
        return 0;
    for (int i = 0; waiting_count && i < WAITING; i++)
        if (waiting[i].unique == unique) {
            waiting[i].unique = 0;
            waiting_count--;
            return waiting[i].opcode;
        }
    return 0;
}

/* What goes into libfuse's buffer in any case: the heads of a WRITE. */
enum { HEADS = sizeof(struct in_header) + sizeof(struct write_in) };
/* A smaller copy costs less than making an object that fits. */
enum { LARGE_MIN = 32 << 10 };

/* Where the rest of the next request is read to: a bytes object that nobody has seen. */
static PyObject *rest;
/* The bytes of a large WRITE. pyfuse3 calls the handler before it reads another request. */
static PyObject *written;

static ssize_t read_parts(int fd, void *buffer, size_t size)
{
    if (rest && (size_t)PyBytes_GET_SIZE(rest) < size - HEADS)
        Py_CLEAR(rest);
    if (!rest && !(rest = PyBytes_FromStringAndSize(NULL, size - HEADS))) {
        PyErr_Clear();
        return read(fd, buffer, size);
    }
    struct iovec parts[] = {{buffer, HEADS}, {PyBytes_AS_STRING(rest), size - HEADS}};
    ssize_t length = readv(fd, parts, 2);
    if (length <= HEADS)
        return length;
    const struct in_header *head = buffer;
    struct write_in *in = (struct write_in *)(head + 1);
    Py_ssize_t behind = length - HEADS;
    if (head->opcode != OP_WRITE || behind < LARGE_MIN || in->size != behind) {
        memcpy((char *)buffer + HEADS, PyBytes_AS_STRING(rest), behind);
        return length;
    }
    Py_CLEAR(written);
    if (_PyBytes_Resize(&rest, behind)) {
        PyErr_Clear();
        errno = ENOMEM; /* never: it becomes smaller */
        return -1;
    }
    written = rest;
    rest = NULL;
    in->size = 0;
    return length;
}

static ssize_t read_request(int fd, void *buffer, size_t size, void *userdata)
{
    (void)userdata;
    PyGILState_STATE gil = PyGILState_Ensure();
    ssize_t length = size > HEADS ? read_parts(fd, buffer, size) : read(fd, buffer, size);
    int error = errno;
    PyGILState_Release(gil);
    /* Another worker was quicker: see waiting.py. pyfuse3 goes on after EINTR only. */
    errno = length < 0 && error == EAGAIN ? EINTR : error;
    if (length < (ssize_t)sizeof(struct in_header))
        return length;
    const struct in_header *head = buffer;
    if (head->opcode == OP_OPEN || head->opcode == OP_CREATE || head->opcode == OP_OPENDIR)
        note_waiting(head->unique, head->opcode);
    return length;
}

static void amend(struct open_out *out, uint32_t opcode)
{
    if (!(out->fh & HANDLE_MARK))
        return;
    if (opcode == OP_OPENDIR) {
        out->open_flags |= OPENED_CACHE_DIR | OPENED_KEEP_CACHE;
        return;
    }
    out->open_flags |= OPENED_PASSTHROUGH;
    out->open_flags &= ~OPENED_KEEP_CACHE;
    out->backing_id = HANDLE_BACKING_ID(out->fh);
}

/* What a handler has left to do when its request is answered. */
static PyObject *after;

static void call_after(void)
{
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *call = after;
    after = NULL;
    if (call) {
        PyObject *result = PyObject_CallNoArgs(call);
        if (!result)
            PyErr_WriteUnraisable(call);
        Py_XDECREF(result);
        Py_DECREF(call);
    }
    PyGILState_Release(gil);
}

static ssize_t write_reply(int fd, struct iovec *iov, int count, void *userdata)
{
    (void)userdata;
    const struct out_header *head = iov[0].iov_base;
    uint32_t opcode = iov[0].iov_len >= sizeof *head ? take_waiting(head->unique) : 0;
    if (opcode && !head->error && count >= 2 && iov[1].iov_len >= sizeof(struct open_out)) {
        /* the last part of a CREATE reply, all of the others */
        struct open_out out;
        char *at = (char *)iov[1].iov_base + iov[1].iov_len - sizeof out;
        memcpy(&out, at, sizeof out);
        amend(&out, opcode);
        memcpy(at, &out, sizeof out);
    }
    ssize_t length = writev(fd, iov, count);
    int error = errno;
    if (iov[0].iov_len >= sizeof *head && head->unique) /* else it is a notification's thread */
        call_after();
    errno = error;
    return length;
}

static const struct fuse_custom_io custom_io = {.writev = write_reply, .read = read_request};

__attribute__((visibility("default"))) int fuse_session_mount(struct fuse_session *session,
                                                              const char *mountpoint)
{
    int (*mount)(struct fuse_session *, const char *) = dlsym(RTLD_NEXT, "fuse_session_mount");
    if (!mount) {
        fprintf(stderr, "dedupfs: libfuse has no fuse_session_mount\n");
        return -1;
    }
    int result = mount(session, mountpoint);
    if (result)
        return result;
    fuse_fd = fuse_session_fd(session);
    memset(waiting, 0, sizeof waiting);
    waiting_count = 0;
    result = fuse_session_custom_io(session, &custom_io, fuse_fd);
    if (result) {
        fprintf(stderr, "dedupfs: fuse_session_custom_io: %s\n", strerror(-result));
        fuse_fd = -1;
    }
    return 0;
}

static PyObject *is_active(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    return PyBool_FromLong(fuse_fd >= 0);
}

static PyObject *after_reply(PyObject *self, PyObject *call)
{
    (void)self;
    Py_INCREF(call);
    Py_XSETREF(after, call);
    Py_RETURN_NONE;
}

static PyObject *take_written(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    PyObject *taken = written;
    written = NULL;
    return taken ? taken : PyBytes_FromStringAndSize(NULL, 0);
}

static PyObject *backing_open(PyObject *self, PyObject *args)
{
    (void)self;
    struct backing_map map = {0};
    if (!PyArg_ParseTuple(args, "i", &map.fd))
        return NULL;
    int id = ioctl(fuse_fd, DEV_IOC_BACKING_OPEN, &map);
    if (id <= 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    return PyLong_FromLong(id);
}

static PyObject *backing_close(PyObject *self, PyObject *args)
{
    (void)self;
    uint32_t id;
    if (!PyArg_ParseTuple(args, "I", &id))
        return NULL;
    if (ioctl(fuse_fd, DEV_IOC_BACKING_CLOSE, &id))
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"is_active", is_active, METH_NOARGS, "Whether a session was mounted through this module."},
    {"after_reply", after_reply, METH_O,
     "after_reply(call): call it when the request of the running handler is answered."},
    {"take_written", take_written, METH_NOARGS, "The bytes of the WRITE that seems to have none."},
    {"backing_open", backing_open, METH_VARARGS, "backing_open(fd): register a file, return its id."},
    {"backing_close", backing_close, METH_VARARGS, "backing_close(id): let a file go."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_replies", "What pyfuse3 cannot say in its replies.", -1, methods,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__replies(void)
{
    return PyModule_Create(&module);
}
