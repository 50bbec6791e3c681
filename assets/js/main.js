// Starts the dashboard: shell, feeds, pages.

import { register } from './actions.js';
import { icons } from './api.js';
import { botActions } from './bot-actions.js';
import { loadIcons } from './components/icon.js';
import { mountShell } from './components/shell.js';
import { connect, followBots, followStorage } from './feeds.js';
import './keys.js';
import { followServers } from './model-feeds.js';
import { go, route, start } from './router.js';
import { serverActions } from './server-actions.js';

route('bots', /^\/bots\/?$/, () => import('./pages/bots.js'));
route('chat', /^\/chat(?:\/([^/]+))?\/?$/, () => import('./pages/chat.js'));
route('tree', /^\/supervision\/?$/, () => import('./pages/tree.js'));
route('models', /^\/models\/?$/, () => import('./pages/models.js'));

loadIcons(icons).catch(() => { /* the words say it all */ });
register(botActions);
register(serverActions);
const main = mountShell(document.getElementById('root'), go);
followBots();
followServers();
followStorage();
connect();
start(main);
