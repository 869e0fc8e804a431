console.log(JSON.stringify({ v: process.version, argv: process.argv.slice(2) }))
