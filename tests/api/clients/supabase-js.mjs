// supabase-js as an application uses it. Standard input says where, with which key and which calls; what each of them
// has given goes to standard output.
import dns from 'node:dns'
import { createRequire } from 'node:module'
import { text } from 'node:stream/consumers'

const { modules, url, key, token, names } = JSON.parse(await text(process.stdin))
const { createClient } = createRequire(`${modules}/`)('@supabase/supabase-js')

// No server knows the names of the tests' hosts.
dns.lookup = (_, options, done) =>
  options.all ? done(null, [{ address: '127.0.0.1', family: 4 }]) : done(null, '127.0.0.1', 4)

const supabase = createClient(url, key, token ? { accessToken: async () => token } : undefined)
const films = () => supabase.from('films')
const pairs = () => supabase.from('pairs')

const calls = {
  eq: () => films().select('id').eq('title', 'Seven Samurai'),
  quoted: () => films().select('id').eq('title', 'A "quoted", (odd) title: 100%_\\*'),
  in: () => films().select('id').in('title', ['Ran', '花樣年華']).order('id'),
  like: () => films().select('id').like('title', 'S%'),
  is: () => films().select('id').is('year', null).order('id'),
  or: () => films().select('id').or('year.lt.1960,and(mood.eq.calm,rating.gt.8)').order('id'),
  contains: () => films().select('id').contains('tags', ['war']).order('id'),
  search: () => films().select('id').textSearch('plot', 'hours paris', { type: 'plain', config: 'english' }),
  range: () => films().select('id').order('id').range(1, 2),
  order: () => films().select('id').order('year', { ascending: false, nullsFirst: false }).limit(3),
  embedded: () => films().select('title, roles(character, actors(last_name))').eq('id', 1),
  inner: () => films().select('id, actors!inner(last_name)').eq('actors.last_name', 'Nakadai').order('id'),
  json: () => films().select('runtime:details->runtime').eq('id', 1),
  count: () => films().select('id', { count: 'exact' }).in('id', [1, 2, 3]).order('id').limit(1),
  head: () => films().select('*', { count: 'exact', head: true }).in('id', [1, 2, 3]),
  single: () => films().select('id').eq('id', 1).single(),
  single_of_none: () => films().select('id').eq('id', 1000).single(),
  maybe_single: () => films().select('id').eq('id', 1000).maybeSingle(),
  csv: () => films().select('id,year').in('id', [1, 2]).order('id').csv(),
  insert: () => pairs().insert([{ a: 7, b: 1, value: 'ü' }, { a: 7, b: 2 }]).select(),
  insert_again: () => pairs().insert({ a: 7, b: 1 }),
  upsert: () => pairs().upsert({ a: 7, b: 1, value: 'new' }, { onConflict: 'a,b' }).select('value').single(),
  update: () => pairs().update({ value: 'changed' }).eq('a', 7).eq('b', 2).select('value'),
  delete: () => pairs().delete({ count: 'exact' }).eq('a', 7),
  rpc: () => supabase.rpc('add', { a: 2, b: 3 }),
  rpc_of_rows: () => supabase.rpc('films_since', { since: 1990 }, { get: true }).select('id').lt('id', 6),
  rpc_that_fails: () => supabase.rpc('fail', { code: 'PT402', message: 'Payment required' }),
  no_such_table: () => supabase.from('nothing').select(),
  diary: () => supabase.from('diary').select('text').order('id'),
  write_diary: () => supabase.from('diary').insert({ id: 30, owner: 'joe' })
}

const given = {}
for (const name of names) {
  const { status, data, count, error } = await calls[name]()
  given[name] = { status, data, count, error: error && { code: error.code, message: error.message } }
}
console.log(JSON.stringify(given))
