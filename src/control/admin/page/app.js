'use strict';
const $ = (id) => document.getElementById(id);
const EVERY = 2000, KEPT = 150;
let token = sessionStorage.getItem('token') || '';
let before = null, rates = [], timer = 0, users = [];

class Refused extends Error {
  constructor(status, text) { super(text); this.status = status; }
}

async function call(method, path, body) {
  const headers = token ? { Authorization: 'Bearer ' + token } : {};
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  const answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const text = await answer.text();
  if (!answer.ok) {
    let why = answer.status + ' ' + answer.statusText;
    try { const { error, hint } = JSON.parse(text); why = error + (hint ? ': ' + hint : ''); } catch { /* not JSON */ }
    throw new Refused(answer.status, why);
  }
  return text ? JSON.parse(text) : null;
}

function bytes(count) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) { count /= 1024; unit += 1; }
  return (unit === 0 || count >= 100 ? Math.round(count) : count.toFixed(1)) + ' ' + units[unit];
}
function span(seconds) {
  if (seconds < 120) return Math.round(seconds) + ' s';
  if (seconds < 7200) return Math.round(seconds / 60) + ' min';
  if (seconds < 172800) return Math.round(seconds / 3600) + ' h';
  return Math.round(seconds / 86400) + ' days';
}
const ago = (unix) => span(Math.max(0, Date.now() / 1000 - unix)) + ' ago';

function node(tag, text, kind) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}
function button(text, label, act, kind) {
  const made = node('button', text, kind);
  made.type = 'button';
  made.setAttribute('aria-label', label);
  made.dataset.key = label;
  made.addEventListener('click', act);
  return made;
}
/* Replaces the rows of a table; what had the focus keeps it. */
function fill(body, rows, none) {
  const focused = body.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  if (rows.length === 0) {
    const cell = node('td', none, 'weak');
    cell.colSpan = 10;
    rows = [[cell]];
  }
  // On a phone each row is a card, and its cells need their names.
  const names = [...body.parentElement.querySelectorAll('th')].filter((one) => !one.hidden).map((one) => one.textContent);
  body.replaceChildren(...rows.map((cells) => {
    const row = document.createElement('tr');
    row.append(...cells.map((cell) => cell instanceof Node && cell.tagName === 'TD' ? cell : wrap(cell)));
    if (cells.length > 1) for (const [place, cell] of [...row.children].entries()) cell.dataset.name = names[place] ?? '';
    return row;
  }));
  if (focused) for (const one of body.querySelectorAll('button')) if (one.dataset.key === focused) one.focus();
}
function wrap(content) {
  const cell = document.createElement('td');
  for (const part of Array.isArray(content) ? content : [content]) cell.append(part ?? '–', ' ');
  return cell;
}

function traffic(status) {
  const now = performance.now();
  if (before && now > before.at) {
    const seconds = (now - before.at) / 1000;
    const rate = (key) => Math.max(0, status[key] - before.status[key]) / seconds;
    rates.push({ down: rate('bytes_down'), up: rate('bytes_up') });
    rates = rates.slice(-KEPT);
    $('t-down').textContent = bytes(rates.at(-1).down) + '/s';
    $('t-up').textContent = bytes(rates.at(-1).up) + '/s';
    $('p-cpu').textContent = (100 * (status.cpu_s - before.status.cpu_s) / seconds).toFixed(1) + ' %';
    const most = Math.max(1, ...rates.map((one) => Math.max(one.down, one.up)));
    for (const way of ['down', 'up']) {
      const points = rates.map((one, at) => (600 - (rates.length - 1 - at) * 4) + ',' + (116 - 110 * one[way] / most).toFixed(1));
      $('line-' + way).setAttribute('points', points.join(' '));
    }
    $('t-most').textContent = bytes(most) + '/s';
  }
  before = { at: now, status };
  $('t-tcp').textContent = status.connections;
  $('t-udp').textContent = status.udp_sessions;
  $('t-sum-down').textContent = bytes(status.bytes_down);
  $('t-sum-up').textContent = bytes(status.bytes_up);
  $('p-memory').textContent = bytes(status.memory_bytes);
  $('p-buffers').textContent = bytes(status.buffer_bytes);
  $('p-files').textContent = status.open_files;
  $('p-dns').textContent = status.dns.entries;
  const asked = status.dns.hits + status.dns.misses;
  $('p-hits').textContent = asked ? Math.round(100 * status.dns.hits / asked) + ' %' : '–';
  $('p-dns-failures').textContent = status.dns.failures;
  $('role').textContent = status.role;
  document.title = 'ssr ' + status.role;
  $('about').textContent = `version ${status.version}, running for ${span(status.uptime_s)}` + (status.config ? ', ' + status.config : '');
  const causes = Object.entries(status.failures).sort((a, b) => b[1] - a[1]);
  $('causes').replaceChildren(...causes.map(([cause, count]) => node('li', `${cause}: ${count}`)));
}

function showUsers(list) {
  users = list;
  fill($('users'), list.map((user) => {
    const limits = user.limits, words = [];
    if (limits.rate_limit) words.push(bytes(limits.rate_limit) + '/s');
    if (limits.max_connections) words.push(limits.max_connections + ' connections');
    if (limits.max_ips) words.push(limits.max_ips + ' addresses');
    if (limits.expires) words.push('until ' + new Date(limits.expires * 1000).toISOString().slice(0, 10));
    const limited = wrap(words.join(', ') || '–');
    limited.className = 'wide';
    let quota = '–';
    if (limits.quota_bytes) {
      const bar = document.createElement('progress');
      bar.max = limits.quota_bytes;
      bar.value = Math.min(user.used_bytes, limits.quota_bytes);
      if (user.used_bytes >= limits.quota_bytes) bar.className = 'full';
      bar.setAttribute('aria-label', 'Quota of ' + user.name);
      quota = [bar, `${bytes(user.used_bytes)} of ${bytes(limits.quota_bytes)}`];
    }
    const name = user.refused ? [user.name, node('span', 'refused: ' + user.refused, 'bad')] : [user.name ?? 'one key'];
    const acts = user.name === null ? '' : [
      button('Link', 'Link of ' + user.name, () => showLink(user)),
      button('Change', 'Change ' + user.name, () => edit(user)),
      button('Remove', 'Remove ' + user.name, () => ask(`Remove ${user.name}, and end its connections?`, () => call('DELETE', of(user))), 'danger'),
    ];
    return [name, `${user.connections} TCP, ${user.udp_sessions} UDP`, bytes(user.bytes_down), bytes(user.bytes_up), quota,
      limited, user.ips.slice(0, 4).join(', ') + (user.ips.length > 4 ? ' …' : '') || '–',
      user.last_seen ? ago(user.last_seen) : 'never', user.failures, acts];
  }), 'No users');
}
const of = (user, tail = '') => `/api/v1/users/${encodeURIComponent(user.name)}${tail}?server=${encodeURIComponent(user.server)}`;

function showServers(list, isLocal) {
  fill($('servers'), list.map((one) => {
    let state = node('span', one.failed ? 'failed' : one.active ? (isLocal ? 'in use' : 'listens') : 'ready', one.failed ? 'bad' : one.active ? 'good' : '');
    if (one.chosen) state = [state, node('span', '(chosen)', 'weak')];
    const path = `/api/v1/servers/${encodeURIComponent(one.name)}/active`;
    let act = '';
    if (isLocal && list.length > 1) {
      act = one.chosen
        ? button('Automatic', 'Choose servers automatically', () => run(() => call('DELETE', path)))
        : button('Use', 'Use ' + one.name, () => run(() => call('PUT', path)));
    }
    return [one.name + (one.method ? `, ${one.method}` : '') + (one.way ? `, by ${one.way}` : ''), state, one.latency_ms === null ? '–' : one.latency_ms.toFixed(1) + ' ms', one.connections ?? '–', one.failures, act];
  }), 'No servers');
}

function showSessions(list, isLocal) {
  $('h-rule').hidden = !isLocal;
  $('n-sessions').textContent = list.length ? `(${list.length})` : '';
  list.sort((a, b) => b.bytes_down + b.bytes_up - a.bytes_down - a.bytes_up);
  fill($('sessions'), list.slice(0, 200).map((one) => [one.user ?? '–', one.peer, one.target, one.protocol, bytes(one.bytes_down), bytes(one.bytes_up), span(one.age_s),
    ...(isLocal ? [one.rule ?? '–'] : []),
    button('Close', `Close session ${one.id} to ${one.target}`, () => run(() => call('DELETE', '/api/v1/sessions/' + one.id)), 'danger')]), 'No sessions');
}

function showFailed(list) {
  fill($('failed'), list.slice(0, 50).map((one) => {
    const error = wrap(one.error + (one.count > 1 ? ` (${one.count} times)` : ''));
    error.className = 'wide';
    return [span(one.last_ago_s) + ' ago', one.status, one.peer, one.user, one.target, one.server, one.rule, error];
  }), 'Nothing has failed');
}

async function refresh() {
  clearTimeout(timer);
  try {
    // First alone: a wrong token counts once.
    const status = await call('GET', '/api/v1/status');
    const [users, sessions, failures] = await Promise.all(['users', 'sessions', 'failures'].map((what) => call('GET', '/api/v1/' + what)));
    $('login').hidden = true;
    $('content').hidden = false;
    $('logout').hidden = !token;
    const isLocal = status.role === 'local';
    $('s-users').hidden = status.role !== 'server';
    traffic(status);
    showUsers(users);
    showServers(status.servers, isLocal);
    showSessions(sessions, isLocal);
    showFailed(failures.failed);
    if ($('state').dataset.kind !== 'said') say('');
  } catch (error) {
    if (error.status === 401 || error.status === 429) return login(token || error.status === 429 ? error.message : '');
    say('No connection: ' + error.message, true);
  }
  timer = setTimeout(refresh, document.hidden ? 10 * EVERY : EVERY);
}

function login(why) {
  token = '';
  sessionStorage.removeItem('token');
  $('content').hidden = true;
  $('login').hidden = false;
  $('login-error').textContent = why;
  $('token').focus();
}
let saying = 0;
function say(text, isBad) {
  $('state').textContent = text;
  $('state').className = isBad ? 'bad' : 'good';
  delete $('state').dataset.kind;
}
async function run(act, done = 'Done') {
  try {
    await act();
    say(done);
  } catch (error) {
    say(error.message, true);
  }
  $('state').dataset.kind = 'said';
  clearTimeout(saying);
  saying = setTimeout(() => say(''), 8000);
  await refresh();
}

function ask(text, act) {
  $('ask-text').textContent = text;
  $('yes').onclick = () => { $('ask').close(); run(act); };
  $('ask').showModal();
}
async function showLink(user) {
  try {
    const { link, qr } = await call('GET', of(user, '/link'));
    $('shown-title').textContent = 'Link of ' + user.name;
    $('link').value = link ?? 'no link can describe this server';
    $('qr').hidden = !qr;
    if (qr) $('qr').src = 'data:image/svg+xml,' + encodeURIComponent(qr);
    $('shown').showModal();
    $('link').select();
  } catch (error) { say(error.message, true); }
}
let editing = null;
function edit(user) {
  editing = user;
  const form = $('edit-form').elements, limits = user ? user.limits : {};
  $('edit-title').textContent = user ? 'Change ' + user.name : 'Add a user';
  $('edit-error').textContent = '';
  form.name.value = user ? user.name : '';
  form.name.readOnly = Boolean(user);
  form.quota.value = limits.quota_bytes ? limits.quota_bytes / 1e9 : '';
  form.rate.value = limits.rate_limit ? limits.rate_limit * 8 / 1e6 : '';
  form.connections.value = limits.max_connections ?? '';
  form.ips.value = limits.max_ips ?? '';
  form.expires.value = limits.expires ? new Date(limits.expires * 1000).toISOString().slice(0, 10) : '';
  $('edit').showModal();
}

$('edit-form').addEventListener('submit', async (event) => {
  event.preventDefault();
  const form = $('edit-form').elements;
  const number = (value, factor = 1) => value === '' ? null : Math.round(Number(value) * factor);
  const body = {
    quota_bytes: number(form.quota.value, 1e9), rate_limit: number(form.rate.value, 1e6 / 8),
    max_connections: number(form.connections.value), max_ips: number(form.ips.value), expires: form.expires.value || null,
  };
  const limits = editing ? editing.limits : {};
  // A date that was not touched keeps its time of day.
  if (limits.expires && body.expires === new Date(limits.expires * 1000).toISOString().slice(0, 10)) delete body.expires;
  const server = editing ? editing.server : undefined;
  const name = form.name.value;
  try {
    await call('PUT', server ? of(editing) : '/api/v1/users/' + encodeURIComponent(name), body);
    $('edit').close();
    await refresh();
    const made = users.find((user) => user.name === name);
    if (!editing && made) showLink(made);
  } catch (error) { $('edit-error').textContent = error.message; }
});
$('login').addEventListener('submit', (event) => {
  event.preventDefault();
  token = $('token').value;
  sessionStorage.setItem('token', token);
  $('token').value = '';
  refresh();
});
$('add').addEventListener('click', () => edit(null));
$('logout').addEventListener('click', () => { clearTimeout(timer); login(''); });
$('reload').addEventListener('click', () => run(() => call('POST', '/api/v1/reload'), 'The config was read again'));
$('level').addEventListener('change', () => { if ($('level').value) run(() => call('PUT', '/api/v1/log', { level: $('level').value }), 'The log level was changed'); });
$('copy').addEventListener('click', async () => {
  $('link').select();
  try { await navigator.clipboard.writeText($('link').value); } catch { document.execCommand('copy'); }
});
for (const one of document.querySelectorAll('[data-close]')) one.addEventListener('click', () => one.closest('dialog').close());
document.addEventListener('visibilitychange', () => { if (!document.hidden && !$('content').hidden) refresh(); });
refresh();
