#!/usr/bin/env python3
"""Black-box conformance suite for Dockerfile builders. See README.md.

  conform.py run --rbuild PATH [--only GLOB] [-j N] [--report out.json] [--user NAME] [--known FILE]
  conform.py show CASE [--rbuild PATH]
  conform.py list [--only GLOB]

Python 3.11, standard library only."""
import argparse, concurrent.futures, fnmatch, glob, hashlib, http.server, io, json, os, pwd, re, shutil, signal, socket
import stat, struct, subprocess, sys, tempfile, threading, time, urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE + '/lib')
import fixtures                                                                       # noqa: E402
import ocitree                                                                        # noqa: E402
from ocitree import Bad                                                               # noqa: E402

CASES, GOLDEN = HERE + '/cases', HERE + '/golden'
REGISTRY_PORT = int(os.environ.get('CONFORM_REGISTRY_PORT', '5098'))
T_CTX = 1704164645                                   # mtime given to every context file: 2024-01-02T03:04:05Z
KNOWN = {'title', 'args', 'file', 'context', 'output', 'expect', 'stderr_any', 'output_any', 'output_none', 'steps', 'watch', 'layers', 'mtime',
         'ignore', 'env', 'needs', 'root_only', 'may_differ', 'lint', 'timeout', 'also_ok', 'may_lack'}


# ---- services on 127.0.0.1 --------------------------------------------------------------------------------------
def start_registry(store):
    try:
        with urllib.request.urlopen('http://127.0.0.1:%d/conform-id' % REGISTRY_PORT, timeout=2) as r:
            if r.read().decode() == fixtures.IDENT:
                return REGISTRY_PORT
    except OSError:
        pass
    try:
        s = fixtures.serve_registry(store, REGISTRY_PORT)
    except OSError:
        s = fixtures.serve_registry(store, 0)
    return s.server_address[1]


class Web:
    """The HTTP server behind @HTTP@: static files of a case's _http folder with fixed Last-Modified, /redirect/X, /status/N,
    and git repositories (smart HTTP through git http-backend) under /git/."""

    def __init__(self):
        roots = self.roots = {}
        self.hits = hits = {}

        class H(fixtures.Handler):
            def reply(self, code, body=b'', **hdr):
                self.send_response(code)
                for k, v in hdr.items():
                    self.send_header(k.replace('_', '-'), v)
                self.send_header('Content-Length', str(len(body)))
                self.end_headers()
                if self.command != 'HEAD':
                    self.wfile.write(body)

            def do_GET(self):
                path, _, query = self.path.partition('?')
                key, _, rest = path.lstrip('/').partition('/')
                root = roots.get(key)
                hits[key] = hits.get(key, 0) + 1
                if root is None:
                    return self.reply(404, b'no such case\n')
                if rest.startswith('redirect/'):
                    return self.reply(302, Location='/%s/%s' % (key, rest[9:]))
                if rest.startswith('status/'):
                    return self.reply(int(rest[7:].split('/')[0]), b'status\n')
                if rest.startswith('git/'):
                    return self.git(root, rest[4:], query)
                f = os.path.normpath(os.path.join(root, rest))
                if not f.startswith(root + '/') or not os.path.isfile(f):
                    return self.reply(404, b'not found\n')
                with open(f, 'rb') as fh:
                    body = fh.read()
                tag = '"%s"' % hashlib.sha256(body).hexdigest()[:16]
                if self.headers.get('If-None-Match') == tag:
                    return self.reply(304, ETag=tag)
                self.reply(200, body, Content_Type='application/octet-stream', ETag=tag,
                           Last_Modified='Tue, 02 Jan 2024 03:04:05 GMT')
            do_HEAD = do_GET

            def do_POST(self):
                key, _, rest = self.path.lstrip('/').partition('/')
                rest, _, query = rest.partition('?')
                if roots.get(key) and rest.startswith('git/'):
                    return self.git(roots[key], rest[4:], query)
                self.reply(404)

            def git(self, root, path, query):
                n = self.headers.get('Content-Length')
                if n is not None:
                    body = self.rfile.read(int(n))
                elif self.headers.get('Transfer-Encoding') == 'chunked':
                    body = b''
                    while True:
                        k = int(self.rfile.readline().strip() or b'0', 16)
                        body += self.rfile.read(k)
                        self.rfile.readline()
                        if not k:
                            break
                else:
                    body = b''
                env = dict(os.environ, GIT_PROJECT_ROOT=root, GIT_HTTP_EXPORT_ALL='1', PATH_INFO='/' + path, QUERY_STRING=query,
                           REQUEST_METHOD=self.command, CONTENT_TYPE=self.headers.get('Content-Type', ''), CONTENT_LENGTH=str(len(body)),
                           HTTP_CONTENT_ENCODING=self.headers.get('Content-Encoding', ''), REMOTE_ADDR='127.0.0.1',
                           GIT_PROTOCOL=self.headers.get('Git-Protocol', ''), GIT_CONFIG_COUNT='1',
                           GIT_CONFIG_KEY_0='safe.directory', GIT_CONFIG_VALUE_0='*')
                r = subprocess.run(['git', 'http-backend'], input=body, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env)
                head, _, out = r.stdout.partition(b'\r\n\r\n')
                code, hdr = 200, {}
                for l in head.decode('latin-1').split('\r\n'):
                    k, _, v = l.partition(': ')
                    if k.lower() == 'status':
                        code = int(v.split()[0])
                    elif k:
                        hdr[k.replace('-', '_')] = v
                self.reply(code, out, **hdr)

        self.s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), H)
        self.s.daemon_threads = True
        threading.Thread(target=self.s.serve_forever, daemon=True).start()
        self.port = self.s.server_address[1]


def ssh_agent(path):
    """An SSH agent with no keys: enough for a socket to be forwarded and asked."""
    s = socket.socket(socket.AF_UNIX)
    s.bind(path)
    os.chmod(path, 0o777)
    s.listen(8)

    def client(c):
        with c:
            while True:
                h = c.recv(4)
                if len(h) < 4:
                    return
                need, = struct.unpack('>I', h)
                m = b''
                while len(m) < need:
                    m += c.recv(need - len(m))
                c.sendall(struct.pack('>IBI', 5, 12, 0) if m[:1] == b'\x0b' else struct.pack('>IB', 1, 5))

    def loop():
        while True:
            try:
                c, _ = s.accept()
            except OSError:
                return
            threading.Thread(target=client, args=(c,), daemon=True).start()
    threading.Thread(target=loop, daemon=True).start()
    return s


# ---- cases ------------------------------------------------------------------------------------------------------
class Case:
    def __init__(self, name):
        self.name, self.dir = name, os.path.join(CASES, name)
        self.group = name.split('/')[0]
        with open(self.dir + '/case.json') as f:
            self.j = json.load(f)
        bad = set(self.j) - KNOWN
        if bad:
            raise SystemExit('%s/case.json: unknown keys %s' % (name, sorted(bad)))

    def get(self, k, d=None):
        return self.j.get(k, d)

    def golden_path(self):
        return os.path.join(GOLDEN, self.name + '.json')

    def steps(self):
        base = {k: self.j[k] for k in ('args', 'output', 'expect', 'stderr_any', 'output_any', 'output_none', 'file', 'context', 'env', 'lint')
                if k in self.j}
        return [dict(base, **s) for s in self.j.get('steps', [{}])]


def all_cases(only=None):
    names = sorted(os.path.relpath(os.path.dirname(p), CASES) for p in glob.glob(CASES + '/*/*/case.json'))
    if only:
        pats = [p for o in only for p in o.split(',')]
        names = [n for n in names if any(fnmatch.fnmatch(n, p) or fnmatch.fnmatch(n, p + '/*') for p in pats)]
    return names


def copy_tree(src, dst):
    """Copies a case's files with fixed modes and times (git keeps only the x bit)."""
    os.makedirs(dst, exist_ok=True)
    os.chmod(dst, 0o755)
    for e in sorted(os.listdir(src)):
        s, d = os.path.join(src, e), os.path.join(dst, e)
        if os.path.islink(s):
            os.symlink(os.readlink(s), d)
        elif os.path.isdir(s):
            copy_tree(s, d)
        else:
            shutil.copyfile(s, d)
            os.chmod(d, 0o755 if os.stat(s).st_mode & 0o100 else 0o644)
        os.utime(d, (T_CTX, T_CTX), follow_symlinks=False)
    os.utime(dst, (T_CTX, T_CTX))


class Runner:
    def __init__(self, rbuild, user=None, keep=False, verbose=False):
        self.rbuild, self.user, self.keep, self.verbose = os.path.abspath(rbuild), user, keep, verbose
        self.pw = pwd.getpwnam(user) if user else None
        self.store = fixtures.Store()
        self.reg_port = start_registry(self.store)
        self.web = Web()
        self.top = tempfile.mkdtemp(prefix='conform-', dir=os.environ.get('CONFORM_TMP', '/tmp'))
        os.chmod(self.top, 0o755)
        self.conf = self.top + '/registries.conf'
        with open(self.conf, 'w') as f:
            f.write('unqualified-search-registries = ["docker.io"]\n\n[[registry]]\nprefix = "docker.io"\nlocation = "docker.io"\n\n'
                    '[[registry.mirror]]\nlocation = "127.0.0.1:%d"\ninsecure = true\n' % self.reg_port)
        self.root = self.top + '/store'
        self.home = self.top + '/home'
        for d in (self.root, self.home, self.top + '/run', self.top + '/tmp'):
            os.mkdir(d, 0o700)
            self.chown(d)
        self.bases = {}                       # ref -> (diff_ids, tree)
        for ref, plats in self.store.bases.items():
            for s, diffs in plats:
                t = {'/': dict(ocitree.IMPLICIT)}
                for raw in s['layers']:
                    ocitree.apply_layer(t, raw)
                key = ref if len(plats) == 1 else '%s@%s' % (ref, s['arch'])
                self.bases[key] = (diffs, t)
        self.lock = threading.Lock()
        self.n = 0

    def chown(self, p):
        if self.pw:
            os.lchown(p, self.pw.pw_uid, self.pw.pw_gid)

    def chown_r(self, p):
        if self.pw:
            for d, ds, fs in os.walk(p):
                self.chown(d)
                for x in ds + fs:
                    self.chown(os.path.join(d, x))

    def wrap(self, argv):
        if self.pw:
            return ['setpriv', '--reuid', str(self.pw.pw_uid), '--regid', str(self.pw.pw_gid), '--init-groups', '--'] + argv
        return argv

    def environ(self, extra):
        e = {'PATH': os.environ.get('PATH', '/usr/bin:/bin'), 'HOME': self.home, 'TMPDIR': self.top + '/tmp', 'LC_ALL': 'C.UTF-8',
             'XDG_RUNTIME_DIR': self.top + '/run', 'CONTAINERS_REGISTRIES_CONF': self.conf, 'USER': self.user or 'root', 'LOGNAME': self.user or 'root'}
        for k, v in os.environ.items():
            if k.startswith('CONFORM_') or k.startswith('RBUILD_'):
                e[k] = v
        e.update(extra)
        return e

    def close(self):
        if self.keep:
            print('kept: ' + self.top)
            return
        r = subprocess.run(['rm', '-rf', self.top], stderr=subprocess.DEVNULL)
        if r.returncode:                      # overlay work directories and the like, left by a rootless store
            subprocess.run(['chmod', '-R', 'u+rwX', self.top], stderr=subprocess.DEVNULL)
            subprocess.run(['rm', '-rf', self.top], stderr=subprocess.DEVNULL)

    def command(self, argv, cwd, env, timeout):
        t0 = time.monotonic()
        p = subprocess.Popen(self.wrap(argv), cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             start_new_session=True)
        try:
            out, err = p.communicate(timeout=timeout)
            late = False
        except subprocess.TimeoutExpired:
            os.killpg(p.pid, signal.SIGKILL)
            out, err = p.communicate()
            late = True
        return p.returncode, out.decode('utf-8', 'replace'), err.decode('utf-8', 'replace'), late, time.monotonic() - t0

    # -- running one case; returns the facts that goldens are made of
    def observe(self, case):
        with self.lock:
            self.n += 1
            number = self.n
            w = '%s/w%d' % (self.top, number)
        os.mkdir(w, 0o755)
        ctx = w + '/ctx'
        os.mkdir(ctx)
        for e in sorted(os.listdir(case.dir)):
            if e in ('case.json', 'setup.sh'):
                continue
            dst = (w if e.startswith('_') else ctx) + '/' + e
            src = os.path.join(case.dir, e)
            if os.path.isdir(src) and not os.path.islink(src):
                copy_tree(src, dst)
            elif os.path.islink(src):
                os.symlink(os.readlink(src), dst)
            else:
                shutil.copyfile(src, dst)
                os.chmod(dst, 0o755 if os.stat(src).st_mode & 0o100 else 0o644)
            os.utime(dst, (T_CTX, T_CTX), follow_symlinks=False)
        os.utime(ctx, (T_CTX, T_CTX))
        self.chown_r(w)
        key = 'c%d' % number
        self.web.roots[key] = w + '/_http'
        sock = None
        sub = {'@HTTP@': 'http://127.0.0.1:%d/%s' % (self.web.port, key), '@W@': w, '@CTX@': ctx,
               '@GIT@': 'http://127.0.0.1:%d/%s/git' % (self.web.port, key)}
        text = json.dumps(case.j)
        if '@SSH@' in text:
            sub['@SSH@'] = w + '/agent.sock'
            sock = ssh_agent(sub['@SSH@'])
        for m in set(re.findall(r'@LAYOUT:([a-z0-9/:.]+)@', text)):
            d = '%s/layout-%s' % (w, re.sub(r'\W', '-', m))
            self.store.write_layout(m, d)
            self.chown_r(d)
            sub['@LAYOUT:%s@' % m] = d
        for m in set(re.findall(r'@DIGEST:([a-z0-9/:.]+)@', text)):
            sub['@DIGEST:%s@' % m] = self.store.refs[m]

        def fill(s):
            for k, v in sub.items():
                s = s.replace(k, v)
            return s
        try:
            env = self.environ({})
            env.update(W=w, CTX=ctx, HTTP=sub['@HTTP@'])
            if os.path.exists(case.dir + '/setup.sh'):
                rc, out, err, late, _ = self.command(['bash', '-eu', case.dir + '/setup.sh'], ctx, env, 60)
                if rc:
                    return {'setup': 'setup.sh failed: ' + (err or out)[-400:]}
            steps = []
            for i, st in enumerate(case.steps()):
                if st.get('sh'):
                    rc, out, err, late, _ = self.command(['bash', '-euc', fill(st['sh'])], ctx, env, 60)
                    if rc:
                        return {'setup': 'step %d: its shell part failed: %s' % (i + 1, (err or out)[-400:])}
                steps.append(self.step(case, st, i, w, ctx, fill))
            return {'steps': steps}
        finally:
            if sock:
                sock.close()
            del self.web.roots[key]
            if not self.keep:
                subprocess.run(['rm', '-rf', w], stderr=subprocess.DEVNULL)

    def step(self, case, st, i, w, ctx, fill):
        outd = '%s/out%d' % (w, i)
        os.mkdir(outd)
        self.chown(outd)
        kind = st.get('output', 'oci')
        argv = [self.rbuild, '--root', self.root]
        if st.get('file'):
            argv += ['-f', fill(st['file']) if st['file'].startswith('@') else os.path.join(ctx, st['file'])]
        argv += [fill(a) for a in st.get('args', [])]
        context = os.path.join(ctx, st['context']) if st.get('context') else ctx
        dest = None
        if st.get('lint'):
            argv += ['--check', context]
        else:
            dest = outd + ('/tree' if kind == 'local' else '/out.tar')
            argv += ['--progress', 'plain', '-o', 'type=%s,dest=%s' % (kind, dest), context]
        env = self.environ({k: fill(v) for k, v in st.get('env', {}).items()})
        rc, out, err, late, secs = self.command(argv, w, env, case.get('timeout', 60))
        o = {'rc': rc, 'stdout': out, 'stderr': err, 'late': late, 'secs': secs, 'argv': argv}
        if late:
            o['crash'] = 'over its time limit of %d s' % case.get('timeout', 60)
        elif rc < 0:
            o['crash'] = 'killed by signal %d' % -rc
        elif 'panicked at' in err or 'stack backtrace:' in err or rc in (101, 134, 139):
            o['crash'] = 'panicked (exit %d)' % rc
        if st.get('lint'):
            o['findings'] = sorted(parse_findings(out + '\n' + err))
            return o
        if rc == 0 and not late:
            try:
                if kind == 'oci':
                    o['watched'] = {}
                    o['images'] = self.read_oci(case, dest, o['watched'])
                elif kind == 'tar':
                    with open(dest, 'rb') as f:
                        o['export'] = self.shape(case, ocitree.plain_tree(ocitree.decompress(f.read())))
                elif kind == 'local':
                    o['export'] = self.shape(case, ocitree.dir_tree(dest), owner=False)
                    o['export'].pop('/', None)            # the mode of the destination itself is not the image's
                else:
                    o['invalid'] = 'unknown output kind ' + kind
            except Bad as e:
                o['invalid'] = str(e)
            except OSError as e:
                o['invalid'] = 'exit 0, but no usable output: %s' % e
        return o

    def shape(self, case, tree, owner=True):
        mt = case.get('mtime', [])
        f = ocitree.facts(tree, (lambda p: True) if mt is True else (lambda p: any(fnmatch.fnmatch(p, m) for m in mt)))
        for p, n in f.items():
            if not owner:
                n.pop('uid', None), n.pop('gid', None)
            if any(fnmatch.fnmatch(p, m) for m in case.get('ignore', [])):
                for k in ('size', 'sha256', 'text'):
                    n.pop(k, None)
        return f

    def read_oci(self, case, path, seen):
        arch = ocitree.Archive(path)
        res = []
        bt = sorted(((d, t) for d, t in self.bases.values()), key=lambda x: len(x[0]))
        for man, cfg in arch.images():
            tree, diffs = ocitree.image_tree(arch, man, cfg, bt)
            if not res:
                seen.update((p, tree[p].get('sha256', tree[p]['type'])) for p in case.get('watch', []) if p in tree)
            r = {'config': ocitree.config_facts(cfg), 'tree': self.shape(case, tree), 'layers': len(diffs),
                 'empty_layers': ''.join('-' if h.get('empty_layer') else 'L' for h in cfg.get('history') or [])}
            base, best = None, 0
            for ref, (d, t) in self.bases.items():
                if len(d) > best and diffs[:len(d)] == d:
                    base, best = ref, len(d)
            r['base'] = base
            res.append(r)
        return res


def parse_findings(text):
    """`Rule: message (file:line)`, one per line."""
    out = []
    for l in text.splitlines():
        m = re.match(r'^\s*([A-Z][A-Za-z]+): .*\(([^()]*?):(\d+)\)\s*$', l)
        if m:
            out.append([m.group(1), int(m.group(3))])
    return out


def classes(values):
    seen, out = [], []
    for v in values:
        if v not in seen:
            seen.append(v)
        out.append(seen.index(v))
    return out


def watched(case, steps):
    return {p: classes([s['watched'].get(p) for s in steps]) for p in case.get('watch', [])}


# ---- goldens ----------------------------------------------------------------------------------------------------


def brief(v):
    s = json.dumps(v, ensure_ascii=False, sort_keys=True)
    return s if len(s) <= 160 else s[:157] + '...'


def diff_node(p, e, g, out):
    e, g = dict(e), dict(g)
    if 'text' in e:                     # sizes and digests are left out of goldens for small text files
        for k in ('size', 'sha256'):
            e.pop(k, None), g.pop(k, None)
    elif 'text' in g:
        g.pop('text')
    for k in sorted(set(e) | set(g)):
        if e.get(k) != g.get(k):
            out.append('%s: %s: expected %s, got %s' % (p, k, brief(e.get(k)), brief(g.get(k))))


def diff_tree(e, g, out):
    for p in sorted(set(e) | set(g)):
        if p not in g:
            out.append('%s: missing (expected %s)' % (p, brief(e[p])))
        elif p not in e:
            out.append('%s: not expected (%s)' % (p, brief(g[p])))
        else:
            diff_node(p, e[p], g[p], out)


def diff_config(e, g, out):
    for k in sorted(set(e) | set(g)):
        if e.get(k) != g.get(k):
            out.append('config.%s: expected %s, got %s' % (k, brief(e.get(k)), brief(g.get(k))))


def compare(r, case, obs, golden):
    """The list of differences; empty if the case passes."""
    out = []
    if 'setup' in obs:
        return ['SETUP: ' + obs['setup']]
    for i, (st, s, g) in enumerate(zip(case.steps(), obs['steps'], golden['steps'])):
        d = []
        if s.get('crash'):
            d.append(s['crash'] + '; stderr ends: ' + brief(s['stderr'][-200:]))
        elif st.get('lint'):
            e, got = [tuple(x) for x in g['findings']], [tuple(x) for x in s['findings']]
            for x in sorted(set(e) | set(got)):
                if e.count(x) != got.count(x):
                    d.append('finding %s line %d: expected %d time(s), got %d' % (x + (e.count(x), got.count(x))))
            if s['rc'] != (1 if e else 0):
                d.append('--check exit code: expected %d, got %d' % (1 if e else 0, s['rc']))
        elif case.get('also_ok') == ('error' if s['rc'] else 'ok') != g['status'] and (s['stderr'].strip() or s['rc'] == 0):
            pass                                         # the other outcome is as good here: may_differ says why
        elif g['status'] == 'error':
            if s['rc'] == 0:
                d.append('exit code: expected a failure, got 0')
            else:
                pats = st.get('stderr_any', [])
                if pats and not any(re.search(p, s['stderr']) for p in pats):
                    d.append('stderr mentions none of %s: %s' % (brief(pats), brief(s['stderr'][-300:])))
                if not s['stderr'].strip():
                    d.append('nothing on stderr')
        elif s['rc'] != 0:
            d.append('exit code: expected 0, got %d; stderr ends: %s' % (s['rc'], brief(s['stderr'].strip()[-300:])))
        elif s.get('invalid'):
            d.append('output: ' + s['invalid'])
        elif 'export' in g:
            e = {}
            if g.get('export_base'):
                e = {p: n for p, n in r.shape(case, r.bases[g['export_base']][1], owner=st.get('output') != 'local').items() if p not in set(g['gone'])}
            e.update(g['export'])
            diff_tree(e, s['export'], d)
        else:
            if len(s['images']) != len(g['images']):
                d.append('images: expected %d, got %d' % (len(g['images']), len(s['images'])))
            for ei, gi in zip(g['images'], s['images']):
                diff_config(ei['config'], gi['config'], d)
                e = dict(r.shape(case, r.bases[ei['base']][1])) if ei['base'] else {}
                for p in ei.get('gone', []):
                    e.pop(p, None)
                e.update(ei['tree'])
                for p in case.get('may_lack', []):
                    if p not in gi['tree']:
                        e.pop(p, None)
                diff_tree(e, gi['tree'], d)
                if case.get('layers'):
                    for k in ('layers', 'empty_layers'):
                        if ei[k] != gi[k]:
                            d.append('%s: expected %s, got %s' % (k, ei[k], gi[k]))
        if not s.get('crash') and not st.get('lint'):
            both = s['stdout'] + s['stderr']
            for p in st.get('output_any', []):
                if not re.search(p, both):
                    d.append('output does not mention /%s/' % p)
            for p in st.get('output_none', []):
                if re.search(p, both):
                    d.append('output mentions /%s/' % p)
        out += [('step %d: ' % (i + 1) if len(golden['steps']) > 1 else '') + x for x in d]
    if case.get('watch') and not any(s.get('crash') or s.get('invalid') or s['rc'] for s in obs['steps']):
        got = watched(case, obs['steps'])
        for p, c in golden['classes'].items():
            if got.get(p) != c:
                out.append('%s over the steps: expected %s, got %s (equal numbers: equal content)' % (p, c, got.get(p)))
    return out


# ---- commands ---------------------------------------------------------------------------------------------------
def have(need, user):
    if need == 'git':
        return shutil.which('git') is not None
    if need == 'zstd':
        return shutil.which('zstd') is not None
    if need in ('xz', 'bzip2', 'setcap', 'setfattr'):
        return shutil.which(need) is not None
    if need == 'mknod':
        return os.geteuid() == 0 and not user
    raise SystemExit('unknown need: ' + need)


def why_skip(case, user):
    if case.get('root_only') and (os.geteuid() != 0 or user):
        return 'only as root'
    for n in case.get('needs', []):
        if not have(n, user):
            return 'needs ' + n
    if not os.path.exists(case.golden_path()):
        return 'no golden'
    return None


def run_cases(r, names, jobs, user, known):
    res = []

    def one(name):
        c = Case(name)
        skip = why_skip(c, user)
        if skip:
            return dict(case=name, group=c.group, result='skip', why=skip, secs=0)
        t0 = time.monotonic()
        try:
            obs = r.observe(c)
            with open(c.golden_path()) as f:
                d = compare(r, c, obs, json.load(f))
        except Exception as e:                                         # a fault of the suite is a failure with its reason
            import traceback
            d = ['SUITE: %r %s' % (e, traceback.format_exc()[-600:])]
        if name in known:                                                # a difference that is gone must leave the list
            d = [] if d else ['no longer differs: take it out of the list (%s)' % known[name]]
        return dict(case=name, group=c.group, result='fail' if d else 'pass', diffs=d, may_differ=c.get('may_differ'),
                    secs=round(time.monotonic() - t0, 2))
    with concurrent.futures.ThreadPoolExecutor(jobs) as ex:
        for x in ex.map(one, names):
            res.append(x)
            if x['result'] == 'fail':
                print('FAIL %s%s: %s%s' % (x['case'], ' (may differ: %s)' % x['may_differ'] if x['may_differ'] else '',
                                           ' | '.join(x['diffs'][:3]), ' | +%d more' % (len(x['diffs']) - 3) if len(x['diffs']) > 3 else ''), flush=True)
    return res


def summary(res):
    groups = {}
    for x in res:
        g = groups.setdefault(x['group'], {'pass': 0, 'fail': 0, 'skip': 0})
        g[x['result']] += 1
    for g in sorted(groups):
        v = groups[g]
        print('  %-10s %3d passed %3d failed%s' % (g, v['pass'], v['fail'], ' %d skipped' % v['skip'] if v['skip'] else ''))
    n = {k: sum(x['result'] == k for x in res) for k in ('pass', 'fail', 'skip')}
    md = sum(x['result'] == 'fail' and bool(x.get('may_differ')) for x in res)
    if md:
        print('%d of the failures are marked "may differ"' % md)
    print('%d passed, %d failed%s' % (n['pass'], n['fail'], ', %d skipped' % n['skip'] if n['skip'] else ''), flush=True)
    return n


def known_differences(path):
    if not path:
        return {}
    with open(path) as f:
        lines = [x.split(None, 1) for x in f if x.strip() and not x.startswith('#')]
    return {x[0]: (x[1].strip() if len(x) > 1 else '') for x in lines}


def cmd_run(a):
    names = all_cases(a.only)
    if not names:
        raise SystemExit('no case matches')
    known = known_differences(a.known)
    r = Runner(a.rbuild, a.user, a.keep)
    try:
        res = run_cases(r, names, a.j, a.user, known)
    finally:
        r.close()
    if a.report:
        with open(a.report, 'w') as f:
            json.dump(res, f, indent=1)
    n = summary(res)
    bad = [x for x in res if x['result'] == 'fail' and not (a.allow_differ and x.get('may_differ'))]
    return 1 if bad or not n['pass'] else 0


def cmd_show(a):
    c = Case(a.case)
    print(json.dumps(c.j, indent=1))
    if os.path.exists(c.golden_path()):
        with open(c.golden_path()) as f:
            g = json.load(f)
        print(json.dumps(g, indent=1, ensure_ascii=False))
    else:
        g = None
        print('no golden yet')
    if a.rbuild:
        r = Runner(a.rbuild, a.user)
        try:
            obs = r.observe(c)
        finally:
            r.close()
        for s in obs.get('steps', []):
            print('$ ' + ' '.join(s['argv']) + '\nexit %d\n%s%s' % (s['rc'], s['stdout'], s['stderr']))
        d = compare(r, c, obs, g) if g else ['no golden']
        print('\n'.join(d) if d else 'no difference')
        return 1 if d else 0
    return 0


def cmd_list(a):
    for n in all_cases(a.only):
        print('%-40s %s' % (n, Case(n).get('title', '')))
    return 0


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sp = ap.add_subparsers(dest='cmd', required=True)
    p = sp.add_parser('run')
    p.add_argument('--rbuild', required=True)
    p.add_argument('--only', action='append')
    p.add_argument('-j', type=int, default=1)
    p.add_argument('--report')
    p.add_argument('--user', help='run the builder as this user (the runner itself must be root)')
    p.add_argument('--allow-differ', action='store_true', help='exit 0 when only cases marked may_differ fail')
    p.add_argument('--known', help='a list of cases that are known to differ: one a line, with the reason behind a blank')
    p.add_argument('--keep', action='store_true', help='keep the work folder')
    p = sp.add_parser('show')
    p.add_argument('case')
    p.add_argument('--rbuild')
    p.add_argument('--user')
    p = sp.add_parser('list')
    p.add_argument('--only', action='append')
    a = ap.parse_args()
    return globals()['cmd_' + a.cmd](a)


if __name__ == '__main__':
    try:
        sys.exit(main())
    except BrokenPipeError:
        os._exit(1)
