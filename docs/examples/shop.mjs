// An application with supabase-js: who is active, and one more user.
//
//   VAULTBRIX_URL   such as https://api.example.com
//   VAULTBRIX_KEY   an API key of the tenant
//   NODE_EXTRA_CA_CERTS, for Node.js itself: a file with the CA of the API's certificate, unless it is a public one
import { createRequire } from 'node:module'

// From the folder in which it was installed, or from there that NODE_PATH names.
const { createClient } = createRequire(import.meta.url)('@supabase/supabase-js')

const supabase = createClient(process.env.VAULTBRIX_URL, process.env.VAULTBRIX_KEY)

const active = await supabase.from('users').select('*').eq('status', 'active')
console.log('active:', JSON.stringify(active.error ?? active.data))

const added = await supabase.from('users').insert({ name: 'Grace', status: 'active' }).select()
console.log('added:', JSON.stringify(added.error ?? added.data))

process.exitCode = active.error || added.error ? 1 : 0
